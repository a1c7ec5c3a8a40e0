"""Whether this tree computes what an earlier commit did, bit for bit: ``python identity.py``.

Both do the same seeded jobs, see ``identity_jobs.py``, in processes of their own. A line for each
job says "identical", or what differs first. The exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ORIGIN = "0b19de8"
WIDTH = 52


def flatten(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The places and the exact numbers of a result."""
    from numpy import float64
    from torch import Tensor

    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from flatten(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from flatten(part, f"{place}[{number}]")
    elif isinstance(value, Tensor):
        array = value.detach().cpu().contiguous().numpy()
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        yield place, f"{array.dtype} {list(array.shape)} {digest}"
    elif isinstance(value, float | float64):
        yield place, f"{float(value).hex()} ({float(value):.9g})"
    elif isinstance(value, str) and len(value) > WIDTH:
        yield place, hashlib.sha256(value.encode()).hexdigest()[:16]
    else:
        yield place, repr(value)


def work(table: str, only: str) -> None:
    """Do the jobs of a table, here and now, and write what they come to."""
    import identity_jobs

    import lowerbound

    if not Path(lowerbound.__file__).is_relative_to(os.environ["PYTHONPATH"]):
        sys.exit(f"imported {lowerbound.__file__}, not what PYTHONPATH names")
    found = {}
    for name, job in getattr(identity_jobs, table).items():
        if table == "JOBS" and only not in name:  # the files may be wanted by any of the others
            continue
        began = time.perf_counter()
        try:
            found[name] = dict(flatten(job()))
        except Exception as error:
            traceback.print_exc()
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        print(f"{name:<{WIDTH}}{time.perf_counter() - began:6.1f} s", flush=True)
    Path(f"{table}.json").write_text(json.dumps(found))


def unpack(commit: str, folder: Path) -> Path:
    """Write the package's sources as of a commit to a folder."""
    git = ["git", "-C", str(ROOT), "archive", commit, "src"]
    packed = subprocess.run(git, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def run(sources: Mapping[str, Path], folder: Path, table: str, only: str) -> dict[str, Any]:
    """What the jobs of a table come to in each tree; both work at the same time."""
    workers = {}
    command = [sys.executable, "-W", "ignore", __file__, "--work", table, "--only", only]
    for name, source in sources.items():
        here = folder / name
        here.mkdir(exist_ok=True)
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / f"compiled-{name}")}
        own = {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", **cache}
        with (here / f"{table}.log").open("w") as log:
            options = {"env": os.environ | own, "cwd": here, "stdout": log, "stderr": log}
            workers[name] = subprocess.Popen(command, **options)
    for name, worker in workers.items():
        if worker.wait():
            sys.exit(f"{name}: {(folder / name / f'{table}.log').read_text()[-3000:]}")
    return {name: json.loads((folder / name / f"{table}.json").read_text()) for name in sources}


def first_difference(then: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """A line, or nothing where all is the same and nothing failed."""
    for failed in (then, now):
        if "error" in failed:
            return f"failed {'then' if failed is then else 'now'}: {failed['error']}"
    for place in [*then, *(place for place in now if place not in then)]:
        before, after = (found.get(place, "nothing") for found in (then, now))
        if before != after:
            return f"DIFFERS at {place}: {before}, now {after}"
    return None


def compare(then: Mapping[str, Any], now: Mapping[str, Any], alike: Mapping[str, str]) -> int:
    """Print a line for each job, and count those that differ."""
    pairs = {name: (then[name], now[name]) for name in now}
    for name, other in alike.items():
        if name in now and other in now:
            pairs[f"{name} = {other}"] = (now[other], now[name])
    faults = {name: first_difference(*pair) for name, pair in pairs.items()}
    for name, fault in faults.items():
        print(f"{name:<{WIDTH}}{fault or 'identical'}")
    count = sum(fault is not None for fault in faults.values())
    print(f"{len(faults) - count} of {len(faults)} are identical")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default=ORIGIN, help="commit to compare with")
    parser.add_argument("--only", default="", help="part of the names of the jobs to do")
    parser.add_argument("--keep", type=Path, help="folder in which to keep files and logs")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.only)
        return
    then: dict[str, Any] = {}
    now: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sources = {"then": unpack(arguments.against, Path(temporary)), "now": ROOT / "src"}
        for table in ("FILES", "JOBS"):
            found = run(sources, folder, table, arguments.only)
            then |= found["then"]
            now |= found["now"]
    from identity_jobs import ALIKE

    sys.exit(compare(then, now, ALIKE) > 0)


if __name__ == "__main__":
    main()
