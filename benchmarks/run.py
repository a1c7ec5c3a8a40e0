"""Measures training and evaluation beside other libraries in one session, and writes RESULTS.md.

    make benchmark

Contenders are separate processes that take turns: while one trains for a round, the others wait.
Ratios are ratios of medians over rounds. Warm-up rounds come first and include the compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from busy import measure_busy
from page import write_page
from turns import HERE, contenders, throughput

import lowerbound as lb
from lowerbound.training.compiling import multiplies_bfloat16

BEFORE = "cedb556"  # the last commit before work on speed began
TARGET, MOST = -105.0, 20


def time_to_bound(folder: Path, asked: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Seconds of training until the test bound reaches the target, compilation included.

    The bound is computed after each epoch, and the time for that does not count. The compiler's
    cache is empty for the first contender, and kept for the others.
    """
    results = {}
    cache = Path(tempfile.mkdtemp(dir=folder))
    for name, ways in asked.items():
        with contenders("mnist", folder, {name: ways}, cache) as running:
            spent, epochs, bound = 0.0, 0, -np.inf
            while bound < TARGET and epochs < MOST:
                spent, epochs = spent + running[name].round(), epochs + 1
                bound = running[name].bound()
        results[name] = {"seconds": spent, "epochs": epochs, "bound": bound}
        print("to the bound", name, results[name], flush=True)
    return results


def run_script(script: str, *arguments: object) -> dict[str, Any]:
    """Run a script in a separate process, and return what it measured."""
    command = [sys.executable, "-W", "ignore", str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(script, *arguments, answer, flush=True)
    return answer


def write_data(folder: Path) -> None:
    """Write MNIST, binarised once, and the faces as arrays."""
    data_sets = {
        "mnist": lb.load_data("mnist", pixels="binarize-once"),
        "faces": lb.load_data("olivetti", test_fraction=0.04),
    }
    for name, data in data_sets.items():
        for part in ("train", "test"):
            values = getattr(data, part).values.numpy()
            np.save(folder / f"{name}-{part}.npy", values.reshape(len(values), -1))


def describe_processor() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, or nothing where there is no such file."""
    names: dict[str, str] = {}
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            key, _, value = line.partition(":")
            names.setdefault(key.strip(), value.strip())
    return names


def describe_machine() -> str:
    """The processor, its cores, and the versions of the libraries."""
    names = describe_processor()
    flags = [
        flag
        for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        if flag in names.get("flags", "").split()
    ]
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "jax", "optax", "pyro-ppl", "pythae")
    )
    return (
        f"{names.get('model name', platform.processor())}, {os.cpu_count()} cores "
        f"({', '.join(flags)}); "
        f"Python {platform.python_version()}, {libraries}"
    )


def commit() -> str:
    """The commit that is measured, marked as dirty if its sources have changed since."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], cwd=HERE.parent, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py", "benchmarks/contenders")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def train(task: str, asked: dict[str, tuple[str, ...]], folder: Path) -> dict[str, Any]:
    """Train in turns; without bfloat16 where the processor has no units for it."""
    if not multiplies_bfloat16(torch.device("cpu")):
        asked = {name: ways for name, ways in asked.items() if "bfloat16" not in ways}
    return throughput(task, folder, asked)


_CONTENDERS = {
    "lowerbound": ("lowerbound",),
    "lowerbound, bfloat16": ("lowerbound", "bfloat16"),
    "JAX": ("jax",),
    "JAX, bfloat16": ("jax", "bfloat16"),
}
_OTHERS = {"Pyro": ("pyro",), "pythae": ("pythae",)}
_UNCOMPILED = {"lowerbound, uncompiled": ("lowerbound", "float32", "never")}

MEASUREMENTS: dict[str, Callable[[Path], Any]] = {
    "mnist": partial(train, "mnist", _CONTENDERS | _UNCOMPILED | _OTHERS),
    "to-the-bound": lambda folder: time_to_bound(
        folder,
        {
            "lowerbound": ("lowerbound", "float32", "auto", str(MOST)),
            "lowerbound, second start": ("lowerbound", "float32", "auto", str(MOST)),
            "JAX": ("jax",),
            "Pyro": ("pyro",),
            "pythae": ("pythae",),
        },
    ),
    "faces": partial(train, "faces", _CONTENDERS),
    "iwae": partial(train, "iwae", _CONTENDERS),
    "wide": partial(train, "wide", {"lowerbound": ("lowerbound",), "JAX": ("jax",)}),
    **{f"busy-{task}": partial(measure_busy, task) for task in ("mnist", "faces", "iwae", "wide")},
    "likelihood": lambda folder: run_script("likelihood.py", folder),
    "memory": lambda folder: run_script("memory.py"),
    "array": lambda folder: run_script("stored.py", folder, "array"),
    "pictures": lambda folder: run_script("stored.py", folder, "pictures"),
    "precision": lambda folder: run_script("precision.py", folder),
    "plain": lambda folder: run_script("plain.py", folder),
    "growth": lambda folder: run_script("growth.py", HERE / "growth.png"),
    "demo": lambda folder: run_script("demo.py", BEFORE),
    "profiles": lambda folder: run_script("profiles.py", folder),
    "products": lambda folder: run_script("products.py"),
}


def main() -> None:
    """Measure what was asked for, or everything, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"what to measure: {', '.join(MEASUREMENTS)} (default: all)",
    )
    names = parser.parse_args().names or list(MEASUREMENTS)
    unknown = set(names) - set(MEASUREMENTS)
    if unknown:
        parser.error(
            f"there is no {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}"
        )
    results = HERE / "results.json"
    machines = json.loads(results.read_text()) if results.exists() else {}
    here = machines.setdefault(describe_machine(), {})
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_data(Path(folder))
        except lb.errors.LowerboundError as error:
            raise SystemExit(f"error: {error}") from None
        for name in names:
            measured = commit()  # now, because another one may be made meanwhile
            here[name] = MEASUREMENTS[name](Path(folder)) | {"commit": measured}
            results.write_text(json.dumps(machines, indent=1) + "\n")
            write_page(machines, HERE / "RESULTS.md")


if __name__ == "__main__":
    main()
