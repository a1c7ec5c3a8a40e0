"""The page of results, from the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_WORK = {
    "mnist": "train 784-200-20-200-784, Bernoulli, batch 100, L = 1, Adam, MNIST",
    "faces": "train 4096-200-10, Gaussian, batch 32, L = 7, faces of 64 x 64",
    "wide": "train 784-1000-1000-50, Bernoulli, batch 1000, L = 1, MNIST",
    "iwae": "train IWAE, K = 50, 784-200-200-50, batch 100, MNIST",
}


def write_page(figures: dict[str, Any], path: Path) -> None:
    """RESULTS.md: a table for each piece of work that was measured."""
    lines = ["# Speed, beside other libraries", ""]
    lines += ["Written by `make benchmark` from `benchmarks/results.json`.", ""]
    lines += [
        "Contenders take turns within one sitting; rates are medians over rounds, after rounds that hold the compilation."
    ]
    lines += [
        "The floor is the floating-point operations of the matrix products, counted by hand, over the rate of a product of"
    ]
    lines += ["2048 x 2048 matrices in float32 measured between the rounds; a share above 1 is bfloat16's.", ""]
    for machine in dict.fromkeys(entry["machine"] for entry in figures.values()):
        measured = ", ".join(name for name, entry in figures.items() if entry["machine"] == machine)
        lines += [f"- {measured}: {machine}"]
    for task, title in _WORK.items():
        if task in figures:
            lines += _training(title, figures[task])
    if "to-the-bound" in figures:
        lines += _to_the_bound(figures["to-the-bound"])
    if "likelihood" in figures:
        lines += _likelihood(figures["likelihood"])
    if "memory" in figures:
        entry = figures["memory"]
        lines += ["", f"## Memory of a log likelihood with K = {entry['samples']:,}", ""]
        lines += [
            f"At most {entry['peak_gib']:.2f} GiB for the process, of which {entry['before_gib']:.2f} before it began."
        ]
    if "mapped" in figures:
        entry = figures["mapped"]
        lines += ["", f"## Data of {entry['gigabytes']:.0f} GB in a file", ""]
        lines += [
            f"{entry['examples_per_second']['file']:,.0f} examples/s from the memory-mapped file, "
            f"{entry['examples_per_second']['memory']:,.0f} from memory: {entry['ratio']:.3f} of it. The process held "
            f"{entry['resident_gib']['file']:.2f} GiB at most, against {entry['resident_gib']['memory']:.2f}."
        ]
    path.write_text("\n".join(lines) + "\n")


def _training(title: str, entry: dict[str, Any]) -> list[str]:
    rates, ours = entry["examples_per_second"], entry["examples_per_second"]["lowerbound"]
    lines = ["", f"## {title[0].upper()}{title[1:]}", ""]
    lines += [
        f"Matrix products at {entry['product_gflops']:.0f} GFLOP/s; the floor of a step is {entry['floor_ms']:.2f} ms.",
        "",
    ]
    lines += ["| | examples/s | lowerbound is | share of the floor | first round | test bound at the end |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, rate in rates.items():
        lines += [
            f"| {name} | {rate:,.0f} | {ours / rate:.2f} x | {entry['share_of_floor'][name]:.2f} | "
            f"{entry['first_round_seconds'][name]:.1f} s | {entry['test_bound'][name]:,.2f} |"
        ]
    if "lowerbound, bfloat16" in rates:
        half = rates["lowerbound, bfloat16"]
        bounds = [entry["test_bound"][name] for name in ("lowerbound", "lowerbound, bfloat16")]
        lines += ["", f"lowerbound in bfloat16 is {half / rates['JAX']:.2f} x JAX in float32"]
        lines[-1] += f" ({half / rates['JAX, bfloat16']:.2f} x JAX in bfloat16)"
        lines[-1] += f"; its test bound differs from float32's by {abs(bounds[1] / bounds[0] - 1):.2%}."
    return lines


def _to_the_bound(entry: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## The first of these, to a test bound of -105 nats",
        "",
        "Seconds of training, compilation included.",
        "",
    ]
    lines += ["| | seconds | passes | bound reached |", "|---|---|---|---|"]
    return lines + [
        f"| {name} | {way['seconds']:.1f} | {way['passes']} | {way['bound']:.2f} |"
        for name, way in entry.items()
        if isinstance(way, dict)
    ]


def _likelihood(entry: dict[str, Any]) -> list[str]:
    rates = entry["images_per_second"]
    lines = ["", "## Log likelihood, 5,000 samples, of the first model", ""]
    lines += ["| | images/s | lowerbound is | share of the floor |", "|---|---|---|---|"]
    return lines + [
        f"| {name} | {rate:.1f} | {rates['lowerbound'] / rate:.2f} x | {entry['share_of_floor'][name]:.2f} |"
        for name, rate in rates.items()
    ]
