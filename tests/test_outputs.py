"""What a user is told when a file cannot be written: the system's reason, and what helps."""

import errno
import io
import os
import resource
import signal

import numpy as np
import pytest
from safetensors import SafetensorError

import lowerbound as lb
from lowerbound.data import fetch
from lowerbound.data.decoded import write_decoded
from lowerbound.errors import DataError, StorageError
from lowerbound.runtime.outputs import write_whole

ROOM, ELSEWHERE, PERMISSION = "make room", "give another place", "get permission"
ADVICE = {
    errno.ENOSPC: f"; {ROOM} or {ELSEWHERE}",
    errno.EDQUOT: f"; {ROOM} or {ELSEWHERE}",
    errno.EACCES: f"; {PERMISSION} to write there (chmod, chown) or {ELSEWHERE}",
    errno.EPERM: f"; {PERMISSION} to write there (chmod, chown) or {ELSEWHERE}",
    errno.EROFS: f"; {ELSEWHERE}",
    errno.EFBIG: f"; raise the limit on the size of files (ulimit -f) or {ELSEWHERE}",
    errno.ENOENT: f"; create its folder or {ELSEWHERE}",
    errno.EIO: "",
    errno.EBUSY: "",
}


@pytest.mark.parametrize("number", ADVICE, ids=errno.errorcode.get)
def test_the_advice_fits_the_reason(number, tmp_path):
    path = tmp_path / "file"
    reason = os.strerror(number)
    for error in (
        OSError(number, reason),
        SafetensorError(f"Error while serializing: I/O error: {reason} (os error {number})"),
    ):
        with pytest.raises(StorageError) as caught, write_whole(path):
            raise error
        assert str(caught.value) == f"{path}: cannot be written ({reason}){ADVICE[number]}"


def test_an_error_without_a_number_is_repeated(tmp_path):
    for error in (OSError("no reason at all"), SafetensorError("no reason at all")):
        with pytest.raises(StorageError) as caught, write_whole(tmp_path / "file"):
            raise error
        assert str(caught.value).endswith("cannot be written (no reason at all)")


def test_another_name_is_advised_if_a_folder_has_this_one(tmp_path):
    (tmp_path / "file").mkdir()
    message = r"a folder has this name; give another name$"
    with pytest.raises(StorageError, match=message), write_whole(tmp_path / "file") as path:
        path.write_text("text")


def test_a_shorter_name_is_advised_if_this_one_is_too_long(tmp_path):
    name, message = "x" * 300, r"give a shorter name$"
    with pytest.raises(StorageError, match=message), write_whole(tmp_path / name) as path:
        path.write_text("text")


@pytest.mark.parametrize("below", ["file/new", "file/folder/new"])
def test_a_file_where_a_folder_should_be_is_named_as_such(below, tmp_path):
    (tmp_path / "file").touch()
    message = "a part of this path is a file and not a folder; give another place$"
    with pytest.raises(StorageError, match=message), write_whole(tmp_path / below):
        pass
    vae = lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(lb.mlp(2, 2)), lb.Bernoulli(lb.mlp(1, 2))
    )
    with pytest.raises(StorageError, match=message):
        lb.save(vae, tmp_path / below)


# Data


@pytest.fixture
def full_disk():
    """A function that limits the size of every file, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_decoded_pictures_whose_last_rows_do_not_fit_are_removed(tmp_path, full_disk):
    """These few bytes reach the disk only when the file is closed."""
    full_disk(64)
    with pytest.raises(DataError, match=r"cannot be stored there \(File too large\); raise"):
        write_decoded(tmp_path / "new.npy", (4, 32), np.zeros((4, 32), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, r"make room, give another folder \(--cache DIR\) or a smaller image_size"),
        (errno.EACCES, r"get permission .* or give another folder \(--cache DIR\)$"),
    ],
)
def test_smaller_pictures_are_advised_only_on_a_full_disk(number, advice, tmp_path, monkeypatch):
    def fail(**given):
        raise OSError(number, "the reason")

    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(DataError, match=rf"cannot be stored there \(the reason\); {advice}"):
        write_decoded(tmp_path / "new.npy", (4, 32), np.zeros((4, 32), np.uint8))


def test_a_full_disk_is_not_blamed_on_the_address_of_a_download(tmp_path, monkeypatch, full_disk):
    def serve(url):
        asked.append(url)
        return io.BytesIO(bytes(200))

    asked = []
    monkeypatch.setattr(fetch, "open_url", serve)
    full_disk(100)
    with pytest.raises(DataError, match=r"downloads cannot be stored there .*ulimit.*XDG_CACHE"):
        fetch.download(["one", "another"], tmp_path / "file", lambda path: None)
    assert asked == ["one"]
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_cannot_get_its_name_is_not_blamed_on_the_address(tmp_path, monkeypatch):
    def serve(url):
        asked.append(url)
        return io.BytesIO(bytes(200))

    asked = []
    monkeypatch.setattr(fetch, "open_url", serve)
    (tmp_path / "file").mkdir()
    message = r"downloads cannot be stored there \(Is a directory\).* another name"
    with pytest.raises(DataError, match=message):
        fetch.download(["one", "another"], tmp_path / "file", lambda path: None)
    assert asked == ["one"]


def test_a_download_whose_file_cannot_be_opened_is_not_blamed_on_the_address(tmp_path, monkeypatch):
    def fail(*given, **keywords):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(fetch, "open_url", lambda url: io.BytesIO(bytes(200)))
    monkeypatch.setattr("pathlib.Path.open", fail)
    message = r"downloads cannot be stored there \(Read-only file system\); set XDG_CACHE_HOME"
    with pytest.raises(DataError, match=message):
        fetch.download(["one", "another"], tmp_path / "file", lambda path: None)


def test_an_error_of_reading_from_an_address_is_not_one_of_writing(tmp_path, monkeypatch):
    class Breaking(io.BytesIO):
        def read(self, size=-1):
            found = super().read(5)
            if not found:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return found

    streams = {"one": Breaking(b"another file"), "another": io.BytesIO(b"whole")}
    monkeypatch.setattr(fetch, "open_url", streams.__getitem__)
    fetch.download(["one", "another"], tmp_path / "file", lambda path: None)
    assert (tmp_path / "file").read_bytes() == b"whole"
