"""What all tests share."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, and for the commands that tests start

import pytest

# torch is imported where it is needed, and so not in the process that only distributes the tests.


def pytest_addoption(parser):
    parser.addoption(
        "--without-training",
        action="store_true",
        help="skip each test that trains a model, at its first training step",
    )


@pytest.fixture(scope="session", autouse=True)
def _heed_signals():
    """Tests heed signals that the program which started them ignores, as nohup does."""
    ignored = [each for each in signal.valid_signals() if signal.getsignal(each) is signal.SIG_IGN]
    heeded = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for each in heeded.keys() & {*ignored}:
        signal.signal(each, heeded[each])


@pytest.fixture(scope="session", autouse=True)
def _without_training(request):
    """Under --without-training, a test that comes to a training step is skipped there and then."""
    if not request.config.getoption("--without-training"):
        yield
        return
    from lowerbound.training.loop import Loop
    from lowerbound.training.step import TrainingStep

    def skip(*arguments, **keywords):
        pytest.skip("trains a model")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "run", skip)
        patch.setattr(TrainingStep, "attempt", skip)
        yield


@pytest.fixture
def trains(request):
    """For a test whose training is not seen by --without-training: in another process, say."""
    if request.config.getoption("--without-training"):
        pytest.skip("trains a model")


@pytest.fixture(autouse=True)
def _seeded():
    """Each test starts with the same seed, and leaves torch's random state as it was."""
    import torch

    from lowerbound.runtime.modes import seeded

    with seeded(0, torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        yield


@pytest.fixture(autouse=True)
def _hints_anew(monkeypatch):
    """Each test gets the hints about its data, whatever data the tests before had."""
    monkeypatch.setattr("lowerbound.data.hints._GIVEN", set())


@pytest.fixture(autouse=True)
def _without_waiting_for_disks(monkeypatch):
    """A test's files need not survive a loss of power; a slow disk would take most of its time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def without_learning_curves(monkeypatch):
    """Runs get an empty bound.png: matplotlib would take most of the time of a short training."""
    monkeypatch.setattr(
        "lowerbound.training.observers.save_learning_curves",
        lambda *given, **named: given[1].touch(),
    )


@pytest.fixture
def fresh_compiler(monkeypatch):
    """Nothing was compiled before, nothing is counted, and nothing compiles in the background."""
    import torch

    from lowerbound.runtime import autotune

    monkeypatch.setattr(autotune, "can_copy_process", lambda device: False)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture
def traced(monkeypatch):
    """The compiler's first stage alone: the graph is captured, whole or not at all, and then run as
    it is."""
    _compile_with(monkeypatch, "eager")


@pytest.fixture
def lowered(monkeypatch):
    """The first two stages: the graph is also turned into one that changes nothing in place, before
    it is run."""
    _compile_with(monkeypatch, "aot_eager")


def _compile_with(monkeypatch, backend: str) -> None:
    import torch

    from lowerbound.runtime import compiler

    def generate_code(graph, inputs, options):
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    monkeypatch.setattr(compiler, "generate_code", generate_code)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where LOWERBOUND_DATA does not
    name it."""
    if "LOWERBOUND_DATA" not in os.environ:
        pytest.skip("set LOWERBOUND_DATA to the folder of real data sets to run this test")
    return Path(os.environ["LOWERBOUND_DATA"])
