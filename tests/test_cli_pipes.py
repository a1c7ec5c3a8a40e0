"""A closed pipe, a full disk, ``python -m lowerbound``, shell completion, and ``--given``."""

import contextlib
import errno
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.cli import main, progress_bar
from lowerbound.data import Examples


def run_without_reader(monkeypatch, stream: str, *arguments) -> int:
    """The exit code of the command when nobody reads a stream of it."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, os.fdopen(writer, "w") as closed:
        patch.setattr(sys, stream, closed)
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
    return ended.value.code


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["recipes"], ["datasets"], ["sample", "--help"]]
)
def test_a_closed_pipe_ends_a_command_quietly(arguments, monkeypatch, capsys):
    assert run_without_reader(monkeypatch, "stdout", *arguments) == 141
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_for_errors_ends_a_command_quietly(monkeypatch):
    assert run_without_reader(monkeypatch, "stderr", "evaluate", "nowhere") == 141


@pytest.fixture
def full():
    """A file on a full disk."""
    file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    yield file
    with contextlib.suppress(OSError):
        file.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["datasets"]])
def test_an_output_on_a_full_disk_is_a_mistake_in_one_line(arguments, full, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "lowerbound: the output cannot be written (No space left on device); make room or send it "
        "to another place\n"
    )


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EDQUOT, "make room or send"),
        (errno.EIO, "send"),
        (errno.EFBIG, "raise the limit on the size of files (ulimit -f) or send"),
    ],
)
def test_room_is_asked_for_only_where_it_is_missing(number, remedy, monkeypatch, capsys):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(number, "the reason")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Broken())
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
    assert ended.value.code == 2
    assert (
        f"cannot be written (the reason); {remedy} it to another place" in capsys.readouterr().err
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_errors_on_a_full_disk_end_a_command_with_the_same_code(full, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "nowhere"])
    assert ended.value.code == 2


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_output_that_was_closed_before_the_start_is_not_written(stream, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, stream, None)  # as Python does for ">&-"
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().err == ""


def test_the_package_is_the_command():
    ended = subprocess.run(
        [sys.executable, "-m", "lowerbound", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ended.stdout == f"lowerbound {lb.__version__}\n"


def test_shells_complete_commands(monkeypatch, capsys):
    monkeypatch.setenv("_LOWERBOUND_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "lowerbound eval")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["evaluate"]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """The directory of a run whose model needs a label and an age."""
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    labels = ["cat", "dog"] * 10
    data = Examples(torch.rand(20, 3), labels=labels, fields={"age": torch.rand(20)})
    likelihood = lb.Given(lb.Given(lb.Gaussian(lb.mlp(5, 6)), "label", categories=2), "age")
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)
    data = lb.load_data(data, test_fraction=0).train
    lb.fit(model, lb.ELBO(), data, epochs=1, directory=folder, progress=False)
    return folder


def sampled(folder, tmp_path, *given) -> np.ndarray:
    out = tmp_path / "drawn.npy"
    flags = [word for entry in given for word in ("--given", entry)]
    with pytest.raises(SystemExit) as ended:
        main(["sample", str(folder), "--out", str(out), "--count", "3", *flags])
    assert ended.value.code == 0
    return np.load(out)


def test_fields_are_given_as_in_python(conditional, tmp_path):
    model = lb.load(conditional)
    for given, fields in {
        ("label=dog", "age=2"): {"label": "dog", "age": 2.0},
        ("label=0", "age=0.5"): {"label": 0, "age": 0.5},
        ("label=dog,cat,dog", "age=1,2,3"): {"label": [1, 0, 1], "age": [1.0, 2.0, 3.0]},
    }.items():
        expected = model.sample(3, seed=0, **fields).numpy()
        assert np.array_equal(sampled(conditional, tmp_path, *given), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["label=cat", "age=nan"], "--given age=nan: is not finite; give a finite number"),
        (["label=cat", "age=-inf"], "--given age=-inf: is not finite; give a finite number"),
        (["label=cat", "age=1_0"], "--given age=1_0: is not a number"),
        (["label=1_0", "age=1"], "--given label=1_0: is not a category"),
        (["age=1"], "needs the field 'label'; give it: --given label=cat (one of cat, dog)"),
        (["label=cat"], "needs the field 'age'; give it: --given age=0"),
        (["label=bird", "age=1"], "is not a category; the categories are cat, dog"),
        (["label=7", "age=1"], "the field 'label' is 7"),
        (["lable=cat"], "does not know the field 'lable'; its fields are age, label"),
        (["label"], "give a field and its value"),
        (["label=cat", "label=dog"], "is given twice"),
        (["label=cat", "age=old"], "is not a number"),
    ],
)
def test_mistaken_fields_are_refused(given, message, conditional, tmp_path, capsys):
    flags = [word for entry in given for word in ("--given", entry)]
    with pytest.raises(SystemExit) as ended:
        main(["sample", str(conditional), "--out", str(tmp_path / "a.npy"), *flags])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


# The remaining time of an evaluation


@pytest.fixture
def show_evaluation(monkeypatch, capsys):
    """A function that shows batches that end at given times, and returns standard error."""

    def show(*batches):
        clock = iter([0.0, *(seconds for seconds, _ in batches)])
        monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        with progress_bar.show_progress("log likelihood") as progress:
            for _, done in batches:
                progress(done, 100)
        return capsys.readouterr().err

    return show


def test_the_remaining_time_of_an_evaluation_leaves_out_the_first_batch(show_evaluation):
    """The first batch may wait for the compiler."""
    assert show_evaluation((60.0, 10), (100.0, 30), (140.0, 50)).splitlines() == [
        "log likelihood: 10 of 100 examples",
        "log likelihood: 30 of 100 examples, 140 s left",
        "log likelihood: 50 of 100 examples, 100 s left",
    ]


def test_the_remaining_time_of_an_evaluation_leaves_out_a_later_wait_for_the_compiler(
    show_evaluation,
):
    """The compiler starts after a few timed batches: here it takes 80 of the fifth's 90 seconds."""
    batches = (10.0, 10), (20.0, 20), (31.0, 30), (41.0, 40), (131.0, 50), (171.0, 90)
    assert show_evaluation(*batches).splitlines() == [
        "log likelihood: 30 of 100 examples, 70 s left",
        "log likelihood: 50 of 100 examples, 50 s left",
        "log likelihood: 90 of 100 examples, 10 s left",
    ]


def test_another_round_over_the_examples_has_its_own_remaining_time(show_evaluation):
    batches = (10.0, 50), (20.0, 100), (40.0, 50), (50.0, 75)
    assert show_evaluation(*batches).splitlines() == [
        "log likelihood: 50 of 100 examples, 10 s left",
    ]


def test_a_terminal_shows_a_bar_with_the_remaining_time(show_evaluation, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    err = show_evaluation((10.0, 10), (20.0, 20), (40.0, 60), (50.0, 61))
    assert "61 of 100 examples" in err
    assert "39 s left" in err
