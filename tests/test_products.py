"""Matrix products with oneDNN: their values, the choice for each kind, and the saved choice."""

import json
import re
import subprocess
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
from lowerbound.runtime import autotune, product_kinds, products
from lowerbound.runtime.compiler import CompiledFunction
from lowerbound.runtime.memory import TensorSizes
from lowerbound.runtime.product_kinds import Product, noticing_products
from lowerbound.runtime.product_pass import ProductPass, multiply_with_onednn
from lowerbound.runtime.products import ProductChoice, has_onednn, make_product_options
from lowerbound.training import compiling
from lowerbound.training.batches import Batch
from lowerbound.training.compiling import StepAutotuner, StepOptions
from lowerbound.training.observing import Observer
from lowerbound.training.progress import Progress

sys.path.insert(0, str(Path(__file__).parent))
from test_compiling import make_step

CPU = torch.device("cpu")

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this build of torch lacks oneDNN")
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def any_size(monkeypatch):
    """Let oneDNN compute products of any size."""
    monkeypatch.setattr(product_kinds, "_LEAST_MULTIPLICATIONS", 0)


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch, tmp_path_factory):
    """Keep the results of trials in a folder of the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(products, "find_cache_folder", lambda: folder)
    return folder


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


def notice(function, *given) -> list[str]:
    with noticing_products() as kinds:
        function(*given)
    return sorted(map(str, kinds))


@needs_onednn
@compiles
@pytest.mark.parametrize("cpp_wrapper", [False, True])
@pytest.mark.usefixtures("fresh_compiler", "any_size")
def test_onednn_computes_the_products_that_it_is_given_and_no_others(cpp_wrapper):
    given = make_layers()
    noticed = notice(forward_and_gradients, *given)
    # The outputs, the gradients of both weights, and the gradient of the hidden layer.
    assert noticed == ["4x5x3 TN", "5x3x4 NT", "5x4x6 NT", "5x6x4 NN", "6x5x4 TN"]
    exact = forward_and_gradients(*(each.detach().double().requires_grad_() for each in given))
    for chosen in (noticed, noticed[1:3]):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        options = make_product_options(chosen)
        function = CompiledFunction(forward_and_gradients, cpp_wrapper=cpp_wrapper, **options)
        made, (code,) = run_and_get_code(function, *given)
        assert len(re.findall(r"linear_pointwise(?:\.default)?\(", code)) == len(chosen)
        assert len(re.findall(r"[^a-z](?:add)?mm(?:_out)?\(", code)) == 5 - len(chosen)
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
    assert count_replaced(torch.mm, a, torch.randn(10).unfold(0, 6, 1)) == 0  # rows overlap
    assert count_replaced(torch.mm, a, torch.randn(14).as_strided((5, 6), (2, 1))) == 0
    assert count_replaced(torch.addmm, torch.randn(4, 6), a, b) == 0  # a bias for each entry
    assert count_replaced(torch.addmm, torch.randn(1), a, b) == 0
    assert count_replaced(lambda *given: torch.addmm(*given, beta=2), torch.randn(6), a, b) == 0


def test_small_products_are_left_to_torch():
    assert count_replaced(torch.mm, torch.randn(100, 200), torch.randn(200, 40)) == 0
    assert count_replaced(torch.mm, torch.randn(100, 784), torch.randn(784, 200)) == 1


@needs_onednn
@pytest.mark.usefixtures("any_size")
def test_onednn_multiplies_matrices_of_one_row_or_column():
    torch.manual_seed(0)
    a, row, column = torch.randn(4, 5), torch.randn(6), torch.randn(5)
    for left, right in [
        (a, column.as_strided((5, 1), (1, 1))),
        (a, column.as_strided((5, 1), (1, 5))),
        (a, torch.randn(5, 3)[:, 1:2]),
        (torch.randn(4, 1), row.as_strided((1, 6), (6, 1))),
        (torch.randn(4, 1), row.as_strided((1, 6), (1, 1))),
        (torch.randn(4, 1), torch.randn(6, 3)[:, 1:2].T),
        (a[:1], torch.randn(5, 6)),
    ]:
        exact = left.double() @ right.double()
        assert len(notice(torch.mm, left, right)) == 1
        made = multiply_with_onednn(left, right).double()
        torch.testing.assert_close(made, exact, atol=1e-5, rtol=1e-5)


def test_noticing_does_not_import_the_compiler():
    """The import takes seconds, and a short evaluation does not need the compiler."""
    code = (
        "import sys, torch\n"
        "from lowerbound.runtime.product_kinds import noticing_products\n"
        "with noticing_products():\n"
        "    torch.ones(2) + 1\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def multiply_if_positive(x: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda x: x @ x, lambda x: -x @ x, (x,))


@pytest.mark.usefixtures("fresh_compiler", "any_size")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.to_sparse() @ x,
        lambda x: x.to_sparse_csr() @ x,
        multiply_if_positive,
        torch.compile(lambda x: x @ x, backend="eager", fullgraph=True),
    ],
    ids=["sparse", "compressed rows", "torch.cond", "compiled"],
)
@pytest.mark.parametrize("mode", [noticing_products, TensorSizes])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_observed_operators_run_as_they_do_by_themselves(mode, function):
    x = torch.ones(3, 3)
    with mode() as found:
        assert torch.equal(function(x), torch.full((3, 3), 3.0))
    if mode is noticing_products:
        assert {str(kind) for kind in found} <= {"3x3x3 NN"}


def count_replaced(function, *given: torch.Tensor) -> int:
    traced = make_fx(function, tracing_mode="fake")(*given)
    noticed = notice(function, *given)
    ProductPass(("4x5x6 NN", "100x784x200 NN"))(traced.graph)
    traced.graph.lint()
    replaced = traced.graph.find_nodes(
        op="call_function", target=torch.ops.lowerbound.product.default
    )
    for node in replaced:
        with node.meta["val"].fake_mode:
            arguments = [getattr(each, "meta", {}).get("val") for each in node.args]
            made = node.target(*arguments)
        assert (made.shape, made.stride()) == (node.meta["val"].shape, node.meta["val"].stride())
    assert len(noticed) == len(replaced)
    return len(replaced)


@needs_onednn
@compiles
@pytest.mark.usefixtures("fresh_compiler", "any_size")
def test_the_compilers_cache_keeps_the_libraries_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    given = make_layers()[0], torch.randn(3, 4), torch.randn(4)
    found = []
    names = notice(affine, *given)
    for chosen in ([], names, [], names):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        function = CompiledFunction(affine, **make_product_options(chosen))
        function(*given)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            function(*given)
        assert (count_calls(profiled, "mkldnn::_linear_pointwise") == 1) is bool(chosen)
        found.append(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
        found[-1] += torch._dynamo.utils.counters["aot_autograd"]["autograd_cache_hit"]
    assert found[:2] == [0, 0]
    assert min(found[2:]) > 0


def affine(x, w, bias):
    return torch.addmm(bias, x, w)


# The choice


KINDS = {Product(100, 784, 200, "NT"), Product(8192, 224, 200, "TN")}
NAMES = ["100x784x200 NT", "8192x224x200 TN"]


def fail_to_import(name):
    raise ImportError(name)


def choose(kinds=KINDS) -> list[str]:
    choice = ProductChoice(CPU)
    choice.kinds = set(kinds)
    return choice.make()


@needs_onednn
@pytest.mark.parametrize("layouts", ["NN", "NT", "TN", "TT"])
def test_a_trial_multiplies_matrices_of_the_products_kind(layouts, any_size):
    kind = Product(3, 4, 5, layouts)
    with torch.device("meta"):  # a default device of the user
        a, b = kind.make_matrices()
    assert notice(torch.mm, a, b) == [f"3x4x5 {layouts}"]
    assert a.dtype == b.dtype == torch.float32
    assert Product.of(a, b) == kind


def replay(monkeypatch, own, others):
    """Let products take these times, in turns."""
    times = {torch.mm: iter(own), products._multiply_with_onednn: iter(others)}
    monkeypatch.setattr(products, "_time", lambda multiply, a, b: next(times[multiply]))
    return times


@needs_onednn
@pytest.mark.parametrize(("share", "chosen"), [(0.94, NAMES[:1]), (0.96, []), (1.5, [])])
def test_onednn_computes_what_it_computes_faster(monkeypatch, share, chosen):
    # Other programs slow single products; the shortest time of each library counts.
    own, others = [3.0, 1.0, 5.0, 1.01] + [9.0] * 16, [5.0, 5.0, share, share, 7.0] + [9.0] * 15
    replay(monkeypatch, own, others)
    assert choose([Product(100, 784, 200, "NT")]) == chosen


@needs_onednn
def test_a_trial_goes_on_until_its_shortest_times_agree(monkeypatch):
    kind = Product(100, 784, 200, "NT")
    for own, turns in (
        ([2.0, 2.0, 2.0, 2.0, 1.0], 4),
        ([2.0, 1.9, 5.0, 5.0, 5.0, 1.94, 1.0], 6),
        ([1.05**-n for n in range(20)], 20),
    ):
        times = replay(monkeypatch, [*own, *[0.0] * 30], [1.0] * 30)
        assert products._time_share(kind) == pytest.approx(1.0 / min(own[:turns]))
        assert len(list(times[torch.mm])) == len(own) + 30 - turns


@needs_onednn
def test_a_trial_of_huge_matrices_is_short(monkeypatch):
    times = replay(monkeypatch, [2.0] * 9, [1.0] * 9)
    monkeypatch.setattr(products, "_MOST_SECONDS", 0.0)
    assert products._time_share(Product(8, 4, 5, "NN")) == 0.5
    assert len(list(times[torch.mm])) == 8


@needs_onednn
def test_onednn_is_timed_without_the_copy_of_a_transposed_matrix(monkeypatch):
    """Compiled code writes the matrix as oneDNN reads it."""
    timed = {torch.mm: set(), products._multiply_with_onednn: set()}

    def time_product(multiply, a, b):
        timed[multiply].add((a.shape, a.is_contiguous(), b.stride()))
        return 1.0

    monkeypatch.setattr(products, "_time", time_product)
    products._time_share(Product(8, 4, 5, "TT"))
    assert timed[torch.mm] == {((8, 4), False, (1, 4))}
    assert timed[products._multiply_with_onednn] == {((8, 4), True, (1, 4))}


@needs_onednn
def test_a_trial_is_made_once_on_a_machine_and_leaves_no_trace(monkeypatch, cache_folder):
    timed = []
    original = products._time_share
    monkeypatch.setattr(
        products, "_time_share", lambda kind: timed.append(str(kind)) or original(kind)
    )
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    chosen = choose()
    assert timed == NAMES
    assert [choose(), choose(), choose([])] == [chosen, chosen, []]
    assert timed == NAMES
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    # A kind that is new is timed alone. Results on other numbers of threads are kept apart.
    choose([*KINDS, Product(1000, 1000, 1000, "NN")])
    assert timed == [*NAMES, "1000x1000x1000 NN"]
    torch.set_num_threads(threads + 1)
    try:
        choose()
    finally:
        torch.set_num_threads(threads)
    assert timed == [*NAMES, "1000x1000x1000 NN", *NAMES]
    assert sorted(path.suffix for path in cache_folder.iterdir()) == [".json", ".json"]


@needs_onednn
@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]", b'{"100x784x200 NT": "fast"}'])
def test_a_spoilt_file_of_results_is_replaced(content, monkeypatch):
    monkeypatch.setattr(products, "_time_share", lambda kind: 0.5)
    products._find_file().write_bytes(content)
    assert choose() == NAMES
    assert json.loads(products._find_file().read_text()) == dict.fromkeys(NAMES, 0.5)


@needs_onednn
def test_a_folder_that_cannot_be_written_is_no_obstacle(monkeypatch, cache_folder):
    monkeypatch.setattr(products, "find_cache_folder", lambda: cache_folder / "file" / "folder")
    (cache_folder / "file").touch()
    monkeypatch.setattr(products, "_time_share", lambda kind: 0.5)
    assert choose() == NAMES


def test_the_trial_is_in_float32_whatever_the_default_type_is():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert set(choose()) <= set(NAMES)
    finally:
        torch.set_default_dtype(before)


@needs_onednn
def test_the_results_that_another_process_kept_meanwhile_count(monkeypatch):
    """Otherwise this process would choose differently from all later ones."""
    other = {NAMES[0]: 1.5, "1000x1000x1000 NN": 0.7}

    def time_share(kind):
        products._keep_shares(other)
        return 0.5

    monkeypatch.setattr(products, "_time_share", time_share)
    assert choose() == NAMES[1:]
    assert json.loads(products._find_file().read_text()) == other | {NAMES[1]: 0.5}


def test_torch_multiplies_where_onednn_is_missing(monkeypatch):
    monkeypatch.setattr(products, "_time_share", lambda kind: 0.1)
    torch.backends.mkldnn.enabled = False
    try:
        assert choose() == []
        choice = ProductChoice(CPU)
        assert choice.run(lambda: 3) == 3
        assert choice.make() == []
    finally:
        torch.backends.mkldnn.enabled = True
    choice = ProductChoice(torch.device("cuda"))
    assert choice.run(lambda: torch.mm(torch.ones(300, 300), torch.ones(300, 300)).sum()) == 300**3
    assert choice.make() == []
    assert make_product_options([]) == {}


@needs_onednn
def test_torch_multiplies_if_its_compiler_lacks_a_part_that_onednn_needs(monkeypatch):
    monkeypatch.setattr(products, "import_module", fail_to_import)
    monkeypatch.setattr(products, "_time_share", lambda kind: 0.1)
    assert choose() == []


@needs_onednn
@pytest.mark.usefixtures("any_size")
def test_compiled_evaluations_choose_by_their_own_products(monkeypatch):
    stages = []

    def collect(function, post_grad_custom_pre_pass=None):
        stages.append(post_grad_custom_pre_pass)
        return function

    monkeypatch.setattr(tuned_score, "CompiledFunction", collect)
    model = make_model()
    for share in (1.0, 0.5):
        monkeypatch.setattr(products, "_time_share", lambda kind, own=share: own)
        products._keep_shares({})
        lb.log_likelihood(model, torch.randn(2, 6), samples=100, chunk_size=10, compile="always")
    assert list(map(type, stages)) == [type(None), ProductPass]
    assert stages[1].names == ("20x2x8 NT", "20x8x6 NT")


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


CHOSEN = ["12x6x8 NT", "8x12x6 TN"]


@pytest.fixture
def used(monkeypatch, any_size) -> list[list[str]]:
    """Collect the choices with which steps are compiled. A trial would choose the first layer."""
    choices = []

    def collect(step, *, onednn_products, **_):
        choices.append(onednn_products)
        return step.compute

    monkeypatch.setattr(compiling, "compile_step", collect)
    monkeypatch.setattr(products, "_time_share", lambda kind: 1.0 - 0.5 * (str(kind) in CHOSEN))
    return choices


def read_progress(folder: Path) -> dict:
    newest = max(folder.glob("checkpoints/*/state.json"))
    return json.loads(newest.read_text())["progress"]


@needs_onednn
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("lacking", [None, "oneDNN", "a part of the compiler"])
def test_a_resumed_run_repeats_the_recorded_choice(lacking, used, tmp_path, monkeypatch):
    run = train(directory=tmp_path, epochs=2)
    assert read_progress(tmp_path)["onednn_products"] == CHOSEN
    assert [record["onednn_products"] for record in run.history] == [CHOSEN] * 2
    # Now a trial would choose torch's own library.
    monkeypatch.setattr(products, "_time_share", None)
    products._keep_shares(dict.fromkeys(CHOSEN, 1.0))
    second = CHOSEN
    if lacking is not None:
        if lacking == "oneDNN":
            monkeypatch.setattr(products, "has_onednn", lambda: False)
        else:
            monkeypatch.setattr(products, "import_module", fail_to_import)
        second = []
    run = train(directory=tmp_path, epochs=4, resume=True)
    assert used == [CHOSEN, second]
    assert read_progress(tmp_path)["onednn_products"] == second
    assert [record["onednn_products"] for record in run.history] == [CHOSEN] * 2 + [second] * 2


@needs_onednn
@pytest.mark.usefixtures("fresh_compiler")
def test_a_short_batch_does_not_show_which_products_there_are(used):
    """A run may be resumed at the last batch of an epoch."""
    steps = make_step(make_model(), lb.ELBO(), lb.Examples.of(torch.randn(12, 6)))
    tuner = StepAutotuner(steps.step, StepOptions("always"), 12, lambda line: None)
    batch = steps.batch()
    short = Batch(batch.tensor[:5], examples=batch.examples, on_device=True)
    for each in (short, batch, batch):
        tuner.run(each, {}, 100)
    assert used == [CHOSEN]


@pytest.mark.usefixtures("fresh_compiler")
def test_resumed_compiled_runs_of_earlier_versions_multiply_with_torch(used, tmp_path, monkeypatch):
    train(directory=tmp_path, epochs=2)
    original = Progress.from_state

    def forget(state):
        state = {name: value for name, value in state.items() if name != "onednn_products"}
        return original(state | {"products": "oneDNN"})

    monkeypatch.setattr(Progress, "from_state", forget)
    train(directory=tmp_path, epochs=4, resume=True)
    assert used == [CHOSEN, []]


@pytest.mark.usefixtures("fresh_compiler")
def test_uncompiled_runs_make_no_trial(used, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "_time_share", None)
    run = train(compile="never", epochs=2, directory=tmp_path)
    assert used == []
    assert "onednn_products" not in run.history[-1]
    assert read_progress(tmp_path)["onednn_products"] is None


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
    monkeypatch.setattr(products, "_choose", lambda kinds: order.append("trial") or CHOSEN)
    described = []

    class Describe(Observer):
        def on_step(self, loop) -> None:
            described.append(loop.autotuner.tuner.description)

    train(compile="auto", epochs=12, threads=1, observers=[Describe()])
    assert order == ["trial", "copy"]
    assert described[-1].endswith(f"{CHOSEN})")
