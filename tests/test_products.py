"""Matrix products: every routine gives the same result, and the choice is kept with the run."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

import lowerbound as lb
from lowerbound.runtime import product_table, products
from lowerbound.runtime.compiler import CompiledFunction
from lowerbound.runtime.product_pass import ProductPass
from lowerbound.runtime.product_table import ProductTable
from lowerbound.runtime.products import ROUTINES, TORCH, Product, ProductTuner, find_fastest
from lowerbound.training import compiling as training_compiling
from lowerbound.training.progress import Progress

sys.path.insert(0, str(Path(__file__).parent))

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch lacks oneDNN"
)
compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    """The folder of the table, empty at first, on a processor that is not Intel's."""
    monkeypatch.setattr(products, "has_intel_processor", lambda: False)
    folder = tmp_path / "table"
    folder.mkdir()
    monkeypatch.setattr(product_table, "_find_folder", lambda: folder)
    return folder


@pytest.fixture
def chooses_onednn(monkeypatch, table) -> list[str]:
    """Trials find oneDNN faster; the result lists the products that were timed."""
    timed = []

    def choose(product: Product) -> str:
        timed.append(str(product))
        return products.list_routines(product)[-1]

    monkeypatch.setattr(products, "find_fastest", choose)
    return timed


def layouts(rows: int, columns: int) -> dict[str, torch.Tensor]:
    wide = torch.randn(rows, columns + 3)
    return {
        "contiguous": torch.randn(rows, columns),
        "transposed": torch.randn(columns, rows).T,
        "slice": wide[:, 2:-1],
        "transposed slice": torch.randn(columns, rows + 5)[:, 1 : rows + 1].T,
    }


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("routine", ROUTINES)
def test_every_routine_multiplies_every_layout(routine, dtype):
    torch.manual_seed(0)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    tried = 0
    for a in layouts(7, 12).values():
        for b in layouts(12, 9).values():
            for bias in (None, torch.randn(9)):
                given = [value.to(dtype) for value in (bias, a, b) if value is not None]
                *own, left, right = given
                product = Product.of(*given)
                if routine not in products.list_routines(product):
                    continue
                tried += 1
                made = products.multiply(routine, left, right, *own)
                exact = left.double() @ right.double() + sum(each.double() for each in own)
                torch.testing.assert_close(made.double(), exact, atol=4 * tolerance, rtol=tolerance)
                assert made.is_contiguous()
                assert made.dtype == dtype
    assert tried == {"torch": 32, "oneDNN": 32, "oneDNN transposed": 8}[routine]


def test_products_with_one_routine_are_left_alone():
    a, b = torch.randn(4, 5), torch.randn(5, 6)
    assert Product.of(a.double(), b.double()) is None
    assert Product.of(torch.randn(4, 6), a, b) is None  # a bias for each entry
    assert Product.of(torch.randn(1).expand(6), a, b) is None
    assert Product.of(torch.randn(6), a, b, beta=2) is None
    assert Product.of(a[:1].expand(4, 5), b) is None
    assert Product.of(a[:, :0], b[:0]) is None
    assert Product.of(a.to("meta"), b.to("meta")) is None
    assert Product.of(torch.randn(6), a, b) is not None


def test_a_product_has_a_name_and_operands_of_its_layout():
    product = Product.of(torch.randn(4), torch.randn(3, 2), torch.randn(4, 2).T)
    assert str(product) == "3x2x4 a=(2,1) b=(1,2) float32 with bias"
    a, b, bias = product.make_operands()
    assert Product.of(bias, a, b) == product


def test_large_products_are_timed_on_smaller_matrices():
    product = Product.of(torch.empty(100_000, 10), torch.empty(500, 10).T)
    small = product.shrink(1e6)
    assert small.operations <= 1e6 < 2.5 * small.operations
    assert (small.a_stride, small.b_stride) == ((small.k, 1), (1, small.k))
    assert product.shrink(1e12) == product


def test_small_products_are_not_timed_with_other_routines(monkeypatch):
    def refuse(*given):
        raise AssertionError

    monkeypatch.setitem(ROUTINES, "oneDNN", refuse)
    assert find_fastest(Product.of(torch.randn(2, 3), torch.randn(3, 2))) == TORCH


@needs_onednn
@pytest.mark.parametrize(("factor", "kept"), [(0.85, TORCH), (0.75, "oneDNN")])
def test_another_routine_must_be_faster_by_a_fifth(monkeypatch, factor, kept):
    seconds = {TORCH: 1e-3, "oneDNN": factor * 1e-3, "oneDNN transposed": 2e-3}
    functions = {ROUTINES[name]: value for name, value in seconds.items()}
    monkeypatch.setattr(products, "_time", lambda run: functions[run.func])
    product = Product.of(torch.randn(6, 5), torch.randn(5, 4))
    assert find_fastest(product) == kept


def test_a_trial_draws_no_random_numbers_and_leaves_the_threads(table):
    product = Product.of(torch.randn(200, 300), torch.randn(300, 400))
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert find_fastest(product) in products.list_routines(product)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@needs_onednn
def test_later_processes_read_the_choices(chooses_onednn):
    lines = []
    a, b = torch.randn(4, 5), torch.randn(5, 6)
    for _ in range(2):
        tuner = ProductTuner(lines.append)
        assert torch.equal(tuner.observing(torch.mm)(a, b), a @ b)
        assert tuner.choose() == {"4x5x6 a=(5,1) b=(6,1) float32": "oneDNN"}
    assert len(chooses_onednn) == 1
    assert all("matrix products: oneDNN" in line for line in lines)
    assert len(lines) == 2


def test_an_intel_processor_keeps_torchs_own_routines(chooses_onednn, monkeypatch):
    monkeypatch.setattr(products, "has_intel_processor", lambda: True)
    tuner = ProductTuner()
    tuner.observing(torch.mm)(torch.randn(4, 5), torch.randn(5, 6))
    assert tuner.choose() == {}
    assert not chooses_onednn


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": 1}', "\x00\xff"])
def test_a_damaged_table_is_replaced(damage, table):
    stored = ProductTable(1)
    stored.write({"a": TORCH})
    assert stored.read() == {"a": TORCH}
    stored.path.write_text(damage, encoding="latin1")
    assert stored.read() == {}
    stored.write({"b": "oneDNN"})
    assert json.loads(stored.path.read_text()) == {"b": "oneDNN"}
    assert os.listdir(table) == [stored.path.name]


def test_a_table_that_cannot_be_written_is_ignored(table, monkeypatch):
    monkeypatch.setattr(product_table, "_find_folder", lambda: table / "file" / "folder")
    (table / "file").write_text("")
    stored = ProductTable(1)
    stored.write({"a": TORCH})
    assert stored.read() == {}


def test_each_machine_and_number_of_threads_has_a_table_of_its_own(table, monkeypatch):
    paths = {ProductTable(1).path, ProductTable(2).path}
    monkeypatch.setattr(product_table, "_name_processor", lambda: "another")
    assert len(paths | {ProductTable(1).path}) == 3


def test_choices_that_this_version_does_not_know_are_not_used(table):
    product = Product.of(torch.randn(2, 3), torch.randn(3, 2))
    ProductTable(torch.get_num_threads()).write({str(product): "unknown"})
    tuner = ProductTuner()
    tuner.seen[str(product)] = product
    assert tuner.choose() == {}


def test_checkpoints_of_earlier_versions_have_no_choices():
    assert Progress.from_state({"compiled": True}).products is None
    tuner = ProductTuner()
    tuner.resume(None)
    assert tuner.choose() == {}


def make_model() -> lb.LatentModel:
    torch.manual_seed(0)
    encoder = lb.mlp(6, 8, 4, activation="tanh")
    decoder = lb.Gaussian(lb.mlp(2, 8, 6, activation="tanh"), scale=1.0)
    return lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(encoder), decoder)


def make_examples() -> lb.Examples:
    return lb.Examples.of(torch.randn(24, 6, generator=torch.Generator().manual_seed(1)))


@needs_onednn
@compiling
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_function_uses_the_routines_and_gets_the_same_gradients(table):
    def gradients(x, w, v, bias):
        hidden = torch.addmm(bias, x, w.T).tanh()
        loss = (hidden @ v.T).square().sum()
        return torch.autograd.grad(loss, [w, v, bias])

    torch.manual_seed(0)
    given = torch.randn(5, 3), torch.randn(4, 3), torch.randn(6, 4), torch.randn(4)
    given = (given[0], *(each.requires_grad_() for each in given[1:]))
    tuner = ProductTuner()
    plain = tuner.observing(gradients)(*given)
    names = {name: products.list_routines(product)[-1] for name, product in tuner.seen.items()}
    assert sorted(set(names.values())) == ["oneDNN", "oneDNN transposed"]
    for chosen in (names, dict.fromkeys(names, "oneDNN")):
        stage = ProductPass(chosen)
        function = CompiledFunction(gradients, post_grad_custom_pre_pass=stage)
        for _ in range(2):
            torch.testing.assert_close(function(*given), plain)
        assert stage.replaced == 5
    stats = torch._dynamo.utils.counters["stats"]
    assert stats["unique_graphs"] == 2


def test_the_compilers_cache_distinguishes_choices():
    chosen = [{}, {"a": "oneDNN"}, {"a": "oneDNN transposed"}, {"b": "oneDNN"}]
    assert len({ProductPass(choices).uuid() for choices in chosen}) == 4
    assert ProductPass({"a": "x", "b": "y"}).uuid() == ProductPass({"b": "y", "a": "x"}).uuid()


@needs_onednn
@compiling
@pytest.mark.usefixtures("fresh_compiler", "traced")
def test_a_resumed_run_uses_the_recorded_choices(chooses_onednn, table, tmp_path, monkeypatch):
    used = []

    def collect(*_, products, **__):
        used.append(dict(products))
        return {}

    monkeypatch.setattr(training_compiling, "_choose_code_options", collect)
    settings = {"batch_size": 12, "compile": "always", "seed": 3, "progress": False}
    settings["directory"] = tmp_path / "run"
    lb.fit(make_model(), lb.ELBO(), make_examples(), epochs=2, **settings)
    state = json.loads(next(tmp_path.glob("run/checkpoints/*/state.json")).read_text())
    recorded = state["progress"]["products"]
    assert set(recorded) == set(chooses_onednn)
    assert len(recorded) > 6

    # The table is lost, and a trial would choose torch's own routine.
    for file in table.iterdir():
        file.unlink()
    monkeypatch.setattr(products, "find_fastest", lambda product: TORCH)
    lb.fit(make_model(), lb.ELBO(), make_examples(), epochs=4, resume=True, **settings)
    assert used == [recorded, recorded]
