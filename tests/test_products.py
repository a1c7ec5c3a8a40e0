"""Matrix products with oneDNN: their values, the choice of the library, and the saved choice."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile

import lowerbound as lb
from lowerbound.evaluation import tuned_score
from lowerbound.runtime import autotune, product_pass, products
from lowerbound.runtime.compiler import CompiledFunction
from lowerbound.runtime.product_pass import ProductPass, multiply_with_onednn
from lowerbound.runtime.products import (
    choose_library,
    has_onednn,
    make_product_options,
)
from lowerbound.training import compiling
from lowerbound.training.observing import Observer
from lowerbound.training.progress import Progress

sys.path.insert(0, str(Path(__file__).parent))

CPU = torch.device("cpu")

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this build of torch lacks oneDNN")
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def any_size(monkeypatch):
    """Let oneDNN compute products of any size."""
    monkeypatch.setattr(product_pass, "_LEAST_MULTIPLICATIONS", 0)


@pytest.fixture
def trial():
    """Forget the choice of an earlier trial in this process, and afterwards that of the test."""
    products._find_faster_library.cache_clear()
    yield
    products._find_faster_library.cache_clear()


# The values


def layouts(rows: int, columns: int) -> dict[str, torch.Tensor]:
    return {
        "contiguous": torch.randn(rows, columns),
        "transposed": torch.randn(columns, rows).T,
        "slice": torch.randn(rows, columns + 3)[:, 2:-1],
        "transposed slice": torch.randn(columns, rows + 5)[:, 1 : rows + 1].T,
    }


@needs_onednn
def test_onednn_multiplies_every_layout():
    torch.manual_seed(0)
    for a in layouts(7, 12).values():
        for b in layouts(12, 9).values():
            for bias in (None, torch.randn(9), torch.randn(18)[::2]):
                made = multiply_with_onednn(a, b, bias)
                exact = a.double() @ b.double() + (0 if bias is None else bias.double())
                torch.testing.assert_close(made.double(), exact, atol=1e-5, rtol=1e-5)
                assert made.is_contiguous()


def forward_and_gradients(x, w, v, bias):
    """Compute a hidden and an output layer and the gradients of their weights: five products."""
    hidden = torch.addmm(bias, x, w.T).tanh()
    loss = (hidden @ v.T).square().sum()
    return torch.autograd.grad(loss, [w, v, bias])


def make_layers() -> list[torch.Tensor]:
    torch.manual_seed(0)
    x, *weights = torch.randn(5, 3), torch.randn(4, 3), torch.randn(6, 4), torch.randn(4)
    return [x, *(each.requires_grad_() for each in weights)]


@needs_onednn
@compiles
@pytest.mark.parametrize("cpp_wrapper", [False, True])
@pytest.mark.usefixtures("fresh_compiler", "any_size")
def test_compiled_code_calls_onednn_for_every_product(cpp_wrapper):
    given = make_layers()
    options = make_product_options("oneDNN")
    function = CompiledFunction(forward_and_gradients, cpp_wrapper=cpp_wrapper, **options)
    made, (code,) = run_and_get_code(function, *given)
    assert len(re.findall(r"linear_pointwise(?:\.default)?\(", code)) == 5
    assert not re.search(r"[^a-z](add)?mm(_out)?\(", code)
    exact = forward_and_gradients(*(each.detach().double().requires_grad_() for each in given))
    for own, right in zip(made, exact, strict=True):
        torch.testing.assert_close(own.double(), right, atol=1e-4, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def count_calls(profiled: profile, name: str) -> int:
    return sum(event.count for event in profiled.key_averages() if event.key == name)


@pytest.mark.usefixtures("any_size")
def test_products_of_other_kinds_are_left_to_torch():
    a, b = torch.randn(4, 5), torch.randn(5, 6)
    assert count_replaced(torch.mm, a, b) == 1
    assert count_replaced(torch.addmm, torch.randn(6), a, b) == 1
    assert count_replaced(torch.mm, a.double(), b.double()) == 0
    assert count_replaced(torch.mm, a.bfloat16(), b.bfloat16()) == 0
    assert count_replaced(torch.mm, a.to("meta"), b.to("meta")) == 0
    assert count_replaced(torch.mm, a, torch.randn(6).expand(5, 6)) == 0
    assert count_replaced(torch.mm, a, torch.randn(5, 12)[:, ::2]) == 0
    assert count_replaced(torch.addmm, torch.randn(4, 6), a, b) == 0  # a bias for each entry
    assert count_replaced(torch.addmm, torch.randn(1), a, b) == 0
    assert count_replaced(lambda *given: torch.addmm(*given, beta=2), torch.randn(6), a, b) == 0


def test_small_products_are_left_to_torch():
    assert count_replaced(torch.mm, torch.randn(100, 200), torch.randn(200, 40)) == 0
    assert count_replaced(torch.mm, torch.randn(100, 784), torch.randn(784, 200)) == 1


def count_replaced(function, *given: torch.Tensor) -> int:
    traced = make_fx(function, tracing_mode="fake")(*given)
    ProductPass()(traced.graph)
    traced.graph.lint()
    replaced = traced.graph.find_nodes(
        op="call_function", target=torch.ops.lowerbound.product.default
    )
    for node in replaced:
        with node.meta["val"].fake_mode:
            arguments = [getattr(each, "meta", {}).get("val") for each in node.args]
            made = node.target(*arguments)
        assert (made.shape, made.stride()) == (node.meta["val"].shape, node.meta["val"].stride())
    return len(replaced)


@needs_onednn
@compiles
@pytest.mark.usefixtures("fresh_compiler", "any_size")
def test_the_compilers_cache_keeps_the_libraries_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    given = make_layers()[0], torch.randn(3, 4), torch.randn(4)
    found = []
    for library in ("torch", "oneDNN", "torch", "oneDNN"):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        function = CompiledFunction(affine, **make_product_options(library))
        function(*given)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            function(*given)
        assert (count_calls(profiled, "mkldnn::_linear_pointwise") == 1) is (library == "oneDNN")
        found.append(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
        found[-1] += torch._dynamo.utils.counters["aot_autograd"]["autograd_cache_hit"]
    assert found[:2] == [0, 0]
    assert min(found[2:]) > 0


def affine(x, w, bias):
    return torch.addmm(bias, x, w)


# The choice


@needs_onednn
@pytest.mark.usefixtures("trial")
@pytest.mark.parametrize(("share", "chosen"), [(0.84, "oneDNN"), (0.86, "torch"), (1.5, "torch")])
def test_onednn_is_chosen_only_if_it_is_clearly_faster(monkeypatch, share, chosen):
    # Other programs slow single products; the shortest time of each library counts.
    own = iter([3.0, 1.0] + [9.0] * 100)
    others = iter([5.0 * share] * 8 + [share] + [9.0] * 100)
    turn = iter([own, others] * 100)
    monkeypatch.setattr(products, "_time", lambda work: next(next(turn)))
    assert choose_library(CPU) == chosen


@pytest.mark.usefixtures("trial")
def test_a_trial_is_made_once_and_leaves_no_trace(monkeypatch):
    timed = []
    original = products._time
    monkeypatch.setattr(products, "_time", lambda work: timed.append(work) or original(work))
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    chosen = [choose_library(CPU) for _ in range(3)]
    assert len(set(chosen)) == 1
    assert len(timed) == 2 * products._TURNS * has_onednn()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("trial")
def test_the_trial_is_in_float32_whatever_the_default_type_is():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert choose_library(CPU) in ("torch", "oneDNN")
    finally:
        torch.set_default_dtype(before)


@pytest.mark.usefixtures("trial")
def test_torch_multiplies_where_onednn_is_missing(monkeypatch):
    monkeypatch.setattr(products, "_compare", lambda *_: "oneDNN")
    torch.backends.mkldnn.enabled = False
    try:
        assert choose_library(CPU) == "torch"
    finally:
        torch.backends.mkldnn.enabled = True
    assert choose_library(torch.device("cuda")) == "torch"
    assert make_product_options("torch") == {}


@needs_onednn
@pytest.mark.usefixtures("trial")
def test_torch_multiplies_if_its_compiler_lacks_a_part_that_onednn_needs(monkeypatch):
    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(products, "import_module", fail)
    monkeypatch.setattr(products, "_time", lambda work: float(work() is None))
    monkeypatch.setattr(products, "_WORTH_A_CHANGE", 2.0)
    assert choose_library(CPU) == "torch"


@needs_onednn
def test_compiled_evaluations_multiply_with_the_chosen_library(monkeypatch):
    stages = []

    def collect(function, post_grad_custom_pre_pass=None):
        stages.append(post_grad_custom_pre_pass)
        return function

    monkeypatch.setattr(tuned_score, "CompiledFunction", collect)
    model = make_model()
    for library in ("torch", "oneDNN"):
        monkeypatch.setattr(tuned_score, "choose_library", lambda device, own=library: own)
        lb.log_likelihood(model, torch.randn(2, 6), samples=100, chunk_size=10, compile="always")
    assert list(map(type, stages)) == [type(None), ProductPass]


# A training


def make_model() -> lb.LatentModel:
    torch.manual_seed(0)
    encoder = lb.mlp(6, 8, 4, activation="tanh")
    decoder = lb.Gaussian(lb.mlp(2, 8, 6, activation="tanh"), scale=1.0)
    return lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(encoder), decoder)


def train(**settings) -> lb.Run:
    examples = lb.Examples.of(torch.randn(24, 6, generator=torch.Generator().manual_seed(1)))
    settings = {"batch_size": 12, "compile": "always", "progress": False, "seed": 3} | settings
    return lb.fit(make_model(), lb.ELBO(), examples, **settings)


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """Collect the libraries for which steps are compiled. A trial would choose oneDNN."""
    libraries = []

    def collect(step, *, products, **_):
        libraries.append(products)
        return step.compute

    monkeypatch.setattr(compiling, "compile_step", collect)
    monkeypatch.setattr(compiling, "choose_library", lambda device: "oneDNN")
    return libraries


def read_progress(folder: Path) -> dict:
    newest = max(folder.glob("checkpoints/*/state.json"))
    return json.loads(newest.read_text())["progress"]


@needs_onednn
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("lacking", [None, "has_onednn", "knows_compiler"])
def test_a_resumed_run_uses_the_recorded_library(lacking, used, tmp_path, monkeypatch):
    run = train(directory=tmp_path, epochs=2)
    assert read_progress(tmp_path)["products"] == "oneDNN"
    assert [record["products"] for record in run.history] == ["oneDNN"] * 2
    # Now a trial would choose torch's own library.
    monkeypatch.setattr(compiling, "choose_library", lambda device: "torch")
    second = "oneDNN"
    if lacking is not None:
        monkeypatch.setattr(compiling, lacking, lambda: False)
        second = "torch"
    run = train(directory=tmp_path, epochs=4, resume=True)
    assert used == ["oneDNN", second]
    assert read_progress(tmp_path)["products"] == second
    assert [record["products"] for record in run.history] == ["oneDNN"] * 2 + [second] * 2


@pytest.mark.usefixtures("fresh_compiler")
def test_resumed_compiled_runs_of_earlier_versions_multiply_with_torch(used, tmp_path, monkeypatch):
    train(directory=tmp_path, epochs=2)
    original = Progress.from_state

    def forget(state):
        return original({name: value for name, value in state.items() if name != "products"})

    monkeypatch.setattr(Progress, "from_state", forget)
    train(directory=tmp_path, epochs=4, resume=True)
    assert used == ["oneDNN", "torch"]


@pytest.mark.usefixtures("fresh_compiler")
def test_uncompiled_runs_make_no_trial(used, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "choose_library", None)
    run = train(compile="never", epochs=2, directory=tmp_path)
    assert used == []
    assert "products" not in run.history[-1]
    assert read_progress(tmp_path)["products"] is None


@pytest.mark.usefixtures("fresh_compiler")
def test_the_trial_precedes_the_copy_of_the_process(used, tmp_path, monkeypatch):
    """A copy of the process has one thread and a lower priority: no place for a trial."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(autotune, "can_copy_process", lambda device: True)
    monkeypatch.setattr(autotune, "WORTH_BACKGROUND_SECONDS", 0.0)
    order = []

    class Copy:
        failure, ended = None, False
        began = time.monotonic()

        def __init__(self, work) -> None:
            order.append("copy")

        def stop(self) -> None:
            pass

    monkeypatch.setattr(autotune, "BackgroundWork", Copy)
    monkeypatch.setattr(
        compiling, "choose_library", lambda device: order.append("trial") or "oneDNN"
    )
    described = []

    class Describe(Observer):
        def on_step(self, loop) -> None:
            described.append(loop.autotuner.tuner.description)

    train(compile="auto", epochs=12, threads=1, observers=[Describe()])
    assert order == ["trial", "copy"]
    assert described[-1].endswith("'oneDNN')")
