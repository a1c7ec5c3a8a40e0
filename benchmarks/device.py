"""Measures steps and a log likelihood on a GPU, and checks that it computes what the CPU does.

    python device.py RESULTS.json [SECTION,SECTION,...]

The data are random, because times do not depend on them. Each section is written as soon as it is
measured, and one that fails leaves its error and does not end the others. The results are also
written as tables of Markdown, in the file of the same name that ends in ``.md``. ``--device cpu
--small`` tries the command itself on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from contenders.lowerbound_ import examples, make
from device_page import RECIPES, compute_ratios, format_value, write_tables
from plain import plain_step
from tasks import LEARNING_RATE, TASKS, Task
from turns import contenders

import lowerbound as lb
from lowerbound.runtime.devices import synchronize
from lowerbound.training import compiling

STEPS_PER_EPOCH = 600
IMAGES, SAMPLES, FIRST_IMAGES, LIKELIHOOD_SECONDS = 10_000, 5000, 200, 40


@dataclass(frozen=True)
class Plan:
    """Where and how much to measure.

    Args:
        device: which device is compared with the CPU.
        small: whether to measure just enough to see that the command works.
        folder: for files.
    """

    device: torch.device
    small: bool
    folder: Path

    @property
    def windows(self) -> tuple[int, int]:
        """The number of windows of steps that are timed, and the steps in each."""
        if self.small:
            return 2, 2
        return 9, 50

    def task(self, name: str) -> Task:
        """A task with so many examples that all timed steps belong to one epoch."""
        steps = 20 if self.small else STEPS_PER_EPOCH
        return replace(TASKS[name], examples=steps * TASKS[name].batch)

    def values(self, task: Task) -> np.ndarray:
        """Random examples, uint8."""
        levels = {"mnist": 2, "faces": 256}[task.data]
        rng = np.random.default_rng(0)
        return rng.integers(levels, size=(task.examples, task.dimensions), dtype=np.uint8)


class Stopwatch(lb.Observer):
    """Times windows of steps, and ends the training after the last one.

    Args:
        device: which to wait for at the end of a window.
        first: the number of steps before the first window.
        windows: the number of windows.
        length: the number of steps in each.
    """

    def __init__(self, device: torch.device, first: int, windows: int, length: int) -> None:
        self.device, self.first, self.length = device, first, length
        self.steps = first + windows * length
        self.seen = 0
        self.seconds: list[float] = []

    def on_step(self, loop: Any) -> None:
        self.seen += 1
        since = self.seen - self.first
        if since < 0 or since % self.length:
            return
        synchronize(self.device)
        now = time.perf_counter()
        if since:
            self.seconds.append((now - self.began) / self.length)
        self.began = now

    @property
    def microseconds(self) -> float:
        """The median time of a step."""
        return 1e6 * median(self.seconds)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Within the block, compiled steps are not recorded as CUDA graphs."""
    usual = compiling.compile_step
    compiling.compile_step = partial(usual, graphs=False)
    try:
        yield
    finally:
        compiling.compile_step = usual


@contextmanager
def with_tf32() -> Iterator[None]:
    """Within the block torch multiplies float32 in TF32, as JAX does by default."""
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(usual)


WAYS: dict[str, tuple[str, Callable[[], Any]]] = {
    "uncompiled": ("never", nullcontext),
    "compiled": ("always", without_graphs),
    "recorded": ("always", nullcontext),
    "recorded, TF32": ("always", with_tf32),
}
# Each compilation takes ten seconds of the device's time.
BY_PRECISION = {"float32": tuple(WAYS), "bfloat16": ("uncompiled", "recorded")}
ON_CPU = {"mnist": ("uncompiled", "compiled"), "faces": ("uncompiled",), "iwae": ("uncompiled",)}
# JAX multiplies float32 in TF32 by default, and torch does not.
OF_JAX = {
    "mnist": (("float32", "default"), ("float32", "highest")),
    "iwae": (("float32", "default"), ("float32", "highest"), ("bfloat16", "default")),
    "faces": (("float32", "default"), ("float32", "highest")),
}


def time_fit(plan: Plan, name: str, device: torch.device, way: str, precision: str) -> float:
    """Microseconds of a step of ``lb.fit``."""
    task = plan.task(name)
    model, objective = make(task)
    windows, length = plan.windows
    if device.type == "cpu" and not plan.small:
        windows, length = 5, 10
    watch = Stopwatch(device, first=min(30, length), windows=windows, length=length)
    compile, mode = WAYS[way]
    torch.compiler.reset()
    with mode():
        lb.fit(
            model,
            objective,
            examples(task, plan.values(task)),
            batch_size=task.batch,
            learning_rate=LEARNING_RATE,
            steps=watch.steps,
            device=str(device),
            precision=precision,
            compile=compile,
            progress=False,
            observers=[watch],
        )
    return watch.microseconds


def measure_steps(plan: Plan, report: Callable[[Any], None]) -> dict[str, Any]:
    """Steps of each recipe on the device."""
    found: dict[str, Any] = {}
    for name, recipe in RECIPES.items():
        for precision, ways in BY_PRECISION.items():
            for way in ways:
                key = f"{recipe}, {precision}"
                value = guarded(time_fit, plan, name, plan.device, way, precision)
                found.setdefault(key, {})[way] = value
                report(found)
    return found


def measure_steps_on_cpu(plan: Plan, report: Callable[[Any], None]) -> dict[str, Any]:
    """The same steps on the CPU of this machine, in float32."""
    found: dict[str, Any] = {"cores": os.cpu_count()}
    for name, recipe in RECIPES.items():
        for way in ON_CPU[name]:
            value = guarded(time_fit, plan, name, torch.device("cpu"), way, "float32")
            found.setdefault(recipe, {})[way] = value
            report(found)
    return found


def measure_plain(plan: Plan, report: Callable[[Any], None]) -> dict[str, float]:
    """A step that is written by hand, for the model of MNIST: one by one, and without waiting."""
    task = plan.task("mnist")
    values = torch.from_numpy(plan.values(task)).to(plan.device)
    found: dict[str, float] = {}
    for name, settings in (("Adam", {}), ("fused Adam", {"fused": True})):
        model = make(task)[0].to(plan.device)
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, **settings)
        windows, length = plan.windows
        watch = Stopwatch(plan.device, first=min(30, length), windows=windows, length=length)
        rows = torch.randperm(len(values)).to(plan.device)
        for number in range(watch.steps):
            some = rows.roll(-number * task.batch)[: task.batch]
            plain_step(model, optimizer, values[some].float())
            watch.on_step(None)
        found[name] = watch.microseconds
    return found


def measure_jax(plan: Plan, report: Callable[[Any], None]) -> dict[str, Any]:
    """Steps of JAX, an epoch of which is one ``lax.scan``."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    found: dict[str, Any] = {"jax": version("jax")}
    for name, ways in OF_JAX.items():
        task = replace(TASKS[name], examples=max(TASKS[name].examples, 1000))
        np.save(plan.folder / f"{task.data}-train.npy", plan.values(task))
        np.save(plan.folder / f"{task.data}-test.npy", plan.values(task)[:100])
        for precision, products in ways:
            os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = products
            value = guarded(time_jax, plan, name, precision)
            key = f"{RECIPES[name]}, {precision}"
            found.setdefault(key, {})[f"products: {products}"] = value
            report(found)
    return found


def time_jax(plan: Plan, name: str, precision: str) -> float:
    """Microseconds of a step of JAX."""
    with contenders(name, plan.folder, {"JAX": ("jax", precision)}) as running:
        rounds = [running["JAX"].round() for _ in range(2 if plan.small else 5)]
    return 1e6 * median(rounds[1:]) / TASKS[name].steps


def measure_likelihood(plan: Plan, report: Callable[[Any], None]) -> dict[str, Any]:
    """A log likelihood of random images; as many as take about 40 seconds."""
    task = plan.task("mnist")
    model = make(task)[0].to(plan.device)
    images = examples(task, plan.values(replace(task, examples=IMAGES)))
    samples, first = (50, 4) if plan.small else (SAMPLES, FIRST_IMAGES)

    def timed(count: int) -> tuple[float, str | None]:
        synchronize(plan.device)
        began = time.perf_counter()
        estimate = lb.log_likelihood(model, images.first(count), samples)
        return time.perf_counter() - began, estimate.pace

    timed(first)
    seconds, _ = timed(first)
    count = min(IMAGES, first if plan.small else int(LIKELIHOOD_SECONDS * first / seconds))
    seconds, pace = timed(count)
    return {"images": count, "samples": samples, "seconds": seconds, "pace": pace}


def agreement(plan: Plan, report: Callable[[Any], None]) -> dict[str, Any]:
    """Largest relative differences of the CPU's results and the device's, by floating type."""
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().images[:500].astype(np.float32) / 16)
    digits = lb.Examples.of((pixels > 0.5).float().reshape(-1, 1, 8, 8))
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        encoder = lb.Gaussian(lb.mlp((1, 8, 8), 64, 64, 8, activation="tanh"))
        decoder = lb.Bernoulli(lb.mlp(4, 64, 64, (1, 8, 8), activation="tanh"))
        here = lb.LatentModel(lb.StandardNormal(4), encoder, decoder).to(dtype)
        lb.fit(here, lb.ELBO(), digits, epochs=5, progress=False, device="cpu")
        results = []
        for device in (torch.device("cpu"), plan.device):
            here.to(device)
            bounds = lb.evaluate(here, lb.ELBO(), digits).per_example
            evidence = lb.log_likelihood(here, digits, 100).per_example
            codes = here.encode(digits).cpu()
            results.append({"ELBO": bounds, "log likelihood": evidence, "embeddings": codes})
        found[str(dtype).removeprefix("torch.")] = {
            name: float((results[0][name] - results[1][name]).norm() / results[0][name].norm())
            for name in results[0]
        }
    return found


def resumed(plan: Plan, report: Callable[[Any], None]) -> dict[str, Any]:
    """Whether a run that is stopped and resumed ends at the same bits, and loads on the CPU."""
    task = replace(plan.task("mnist"), examples=2000)
    data = examples(task, plan.values(task))
    found: dict[str, Any] = {}
    for compile in ("never", "always"):
        ends = []
        for stops in ([4], [2, 4]):
            path = plan.folder / f"{compile}-{len(stops)}"
            for number, epochs in enumerate(stops):
                torch.compiler.reset()
                model, objective = make(task)
                lb.fit(
                    model,
                    objective,
                    data,
                    epochs=epochs,
                    batch_size=100,
                    device=str(plan.device),
                    compile=compile,
                    directory=path,
                    resume=number > 0,
                    progress=False,
                    pictures_every=0,
                )
            ends.append(model)
        pairs = zip(*(end.state_dict().values() for end in ends))
        equal = all(torch.equal(one, other) for one, other in pairs)
        loaded = lb.load(path)
        there = {parameter.device.type for parameter in loaded.parameters()}
        again = zip(loaded.state_dict().values(), ends[1].state_dict().values())
        found[compile] = {
            "equal": equal,
            "loaded on": sorted(there),
            "loaded equal": all(torch.equal(one, other.cpu()) for one, other in again),
            "bound on the CPU": lb.evaluate(loaded, lb.ELBO(), data).mean,
        }
        report(found)
    return found


def measure_profile(plan: Plan, report: Callable[[Any], None]) -> dict[str, Any]:
    """The table that ``lb.fit(profile=True)`` writes."""
    task = plan.task("mnist")
    found: dict[str, Any] = {}
    for compile in ("never", "always"):
        path = plan.folder / f"profile-{compile}"
        model, objective = make(task)
        torch.compiler.reset()
        settings: dict[str, Any] = {"device": str(plan.device), "profile": True}
        settings |= {"compile": compile, "progress": False, "pictures_every": 0}
        data = examples(task, plan.values(task))
        lb.fit(model, objective, data, batch_size=100, epochs=1, directory=path, **settings)
        table = path / "profile.md"
        found[compile] = table.read_text() if table.exists() else "no profile"
        report(found)
    return found


SECTIONS: dict[str, Callable[[Plan, Callable[[Any], None]], dict[str, Any]]] = {
    "agreement": agreement,
    "resume": resumed,
    "plain": measure_plain,
    "steps": measure_steps,
    "jax": measure_jax,
    "likelihood": measure_likelihood,
    "cpu": measure_steps_on_cpu,
    "profile": measure_profile,
}


def guarded(function: Callable[..., Any], *given: Any) -> Any:
    """The function's value, or its error as text."""
    try:
        return function(*given)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error).strip()[-600:]}"


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions of what runs there."""
    name = platform.processor()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lowerbound": lb.__version__,
    }


def main() -> None:
    """Measure the sections that were asked for, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="the JSON file to write")
    parser.add_argument("sections", nargs="?", default=",".join(SECTIONS), help="default: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="try the command itself")
    given = parser.parse_args()
    names = given.sections.split(",")
    unknown = set(names) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    device = torch.device(given.device)
    results: dict[str, Any] = {"machine": describe_machine(device)}

    def write(name: str, section: Any) -> None:
        results[name] = section
        if all(isinstance(part, dict) for part in results.values()):
            results["ratios"] = compute_ratios(results)
        given.results.write_text(json.dumps(results, indent=1) + "\n")
        given.results.with_suffix(".md").write_text(write_tables(results) + "\n")

    for name in names:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(device, given.small, Path(folder))
            write(name, guarded(SECTIONS[name], plan, partial(write, name)))
        seconds = time.perf_counter() - began
        print(
            f"{name} ({seconds:.0f} s): {format_value(results[name])}", file=sys.stderr, flush=True
        )


if __name__ == "__main__":
    main()
