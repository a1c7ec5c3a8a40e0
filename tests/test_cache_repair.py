"""Incomplete files in the compiler's cache are removed, and the code is compiled once more."""

import shutil
from pathlib import Path

import pytest
import torch
from torch._inductor import utils
from torch._inductor.exc import CppCompileError

from lowerbound.runtime.autotune import Autotuner, Option
from lowerbound.runtime.cache_repair import CacheRepair
from lowerbound.runtime.compiler import CompiledFunction

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("fresh_compiler"),
]

CPU = torch.device("cpu")


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def run_compiled() -> Autotuner:
    """Run a function twice, first as it is and then compiled."""

    def double(x: torch.Tensor) -> torch.Tensor:
        return (2 * x).sum(1)

    def build(option: Option, whole: bool):
        if option.compiled:
            return CompiledFunction(double, whole=whole)
        return double

    settings = {"unit": "piece", "warmup": 0, "timed": 1}
    tuner = Autotuner("always", build, CPU, **settings)
    for left in (1, 0):
        tuner.start()
        assert tuner.run(lambda option, function: function(torch.ones(2, 3))).tolist() == [6, 6]
        tuner.stop(left)
    return tuner


def forget_compiled_code() -> None:
    torch.compiler.reset()
    forget = getattr(utils, "clear_caches", None) or utils.clear_inductor_caches
    forget()


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A cache with the code of that function, and of what torch compiles once beside it."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        forget_compiled_code()
        assert run_compiled().option.compiled
    return folder


@pytest.mark.parametrize("cut", [
    lambda whole: b"",
    lambda whole: bytes(len(whole)),  # the linker writes the header last
    lambda whole: whole[:64],
])  # fmt: skip
def test_a_library_that_was_not_written_to_its_end_is_compiled_once_more(cut, filled, cache):
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    damaged = {file: cut(file.read_bytes()) for file in cache.rglob("*.so")}
    assert damaged
    for file, rest in damaged.items():
        file.write_bytes(rest)
    forget_compiled_code()
    tuner = run_compiled()
    assert tuner.option.compiled, tuner.line
    assert any(file.read_bytes() != rest for file, rest in damaged.items())


def cause(error: Exception) -> Exception:
    """Let an error be the cause of another."""
    try:
        try:
            raise error
        except Exception:
            raise RuntimeError("the backend failed") from None
    except RuntimeError as raised:
        return raised


def test_the_precompiled_header_of_code_that_is_not_compiled_is_removed_once(cache):
    header, other = cache / "header.h", cache / "other.h.gch"
    compiled = cache / "header.h.gch"
    for file in (header, compiled, other):
        file.touch()
    error = cause(CppCompileError(["g++", "-include", str(header), "-c", "a.cpp"], "error"))
    repair = CacheRepair()
    assert repair.repair(error)
    assert header.exists()
    assert other.exists()
    assert not compiled.exists()
    compiled.touch()
    assert not repair.repair(error)
    assert compiled.exists()


def test_only_libraries_of_the_cache_are_removed(cache, tmp_path_factory):
    inside, outside = cache / "a.so", tmp_path_factory.mktemp("other") / "b.so"
    for file in (inside, outside):
        file.touch()
    repair = CacheRepair()
    assert not repair.repair(cause(ImportError("file too short", path=str(outside))))
    assert outside.exists()
    assert repair.repair(cause(ImportError("file too short", path=str(inside))))
    assert not inside.exists()


@pytest.mark.parametrize(
    "error", [RuntimeError("failed"), ImportError("no module"), ImportError("gone", path="/a.so")]
)
def test_other_errors_are_not_repaired(error, cache):
    assert not CacheRepair().repair(cause(error))
