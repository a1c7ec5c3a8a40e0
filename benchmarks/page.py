"""Writes RESULTS.md from what was measured."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

_WORK = {
    "mnist": "train 784-200-20-200-784, Bernoulli, batch 100, L = 1, Adam, MNIST",
    "faces": "train 4096-200-10, Gaussian, batch 32, L = 7, faces of 64 x 64",
    "wide": "train 784-1000-1000-50, Bernoulli, batch 1000, L = 1, MNIST",
    "iwae": "train IWAE, K = 50, 784-200-200-50, batch 100, MNIST",
}
_LIKELIHOOD = "log likelihood, 5,000 samples, of the first model"
_PEERS = ("JAX", "Pyro", "pythae")

_HEAD = """# Speed compared with other libraries

Written by `make benchmark` from `benchmarks/results.json`. [docs/speed.md](../docs/speed.md) says
what the values mean, what limits them and what was tried.

Contenders take turns within one session. Rates are medians over rounds, after warm-up rounds that
include the compilation. The compiler's cache is empty at the start, except at a second start.
Trainings to a bound are run once each, one after another. A test bound at the end comes from one
seed: the order of the examples differs between contenders, and changes the bound by some nats after
few epochs. The floor is the time that the matrix products would take at the rate of the large
product, which multiplies 2048 x 2048 matrices in float32 and is timed between the rounds. The
operations of all products are counted by hand. A share of the floor is the floor divided by the
measured time. A share above 1 is due to bfloat16.
"""


def write_page(machines: dict[str, Any], path: Path) -> None:
    """Write, for each machine, a summary and a section for each measurement."""
    lines = [_HEAD]
    for machine, measured in machines.items():
        processor, _, libraries = machine.partition("; ")
        lines += [f"# On {processor}", "", *_summary(measured), "", f"{libraries}.", ""]
        by_commit: dict[str, list[str]] = {}
        for name, entry in measured.items():
            by_commit.setdefault(entry["commit"], []).append(name)
        commits = (f"{hash}: {', '.join(names)}" for hash, names in by_commit.items())
        lines += [_paragraph(f"Measured at commit {'; at '.join(commits)}.")]
        for name, entry in measured.items():
            if name in _WORK:
                lines += _training(_WORK[name], entry)
        busy = {name: measured[f"busy-{name}"] for name in _WORK if f"busy-{name}" in measured}
        if busy:
            lines += _busy(busy)
        for name, write in _SECTIONS.items():
            if name in measured:
                lines += write(measured[name])
        lines += [""]
    path.write_text("\n".join(lines).rstrip() + "\n")


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _title(text: str) -> list[str]:
    return ["", f"## {text[0].upper()}{text[1:]}", ""]


def _summary(measured: dict[str, Any]) -> list[str]:
    lines = [
        "| work | lowerbound | x JAX | x Pyro | x pythae | share of the floor |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        (_WORK[name], measured[name], "examples_per_second") for name in _WORK if name in measured
    ]
    if "likelihood" in measured:
        rows.append((_LIKELIHOOD, measured["likelihood"], "images_per_second"))
    for title, entry, unit in rows:
        rates = entry[unit]
        for own in (name for name in ("lowerbound", "lowerbound, bfloat16") if name in rates):
            cells = [
                title + own.removeprefix("lowerbound"),
                f"{rates[own]:,.0f} {unit.split('_')[0]}/s",
                *_peers({peer: rates[own] / rate for peer, rate in rates.items()}),
                f"{entry['share_of_floor'][own]:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if "to-the-bound" in measured:
        seconds = _seconds(measured["to-the-bound"])
        own = seconds["lowerbound"]
        cells = [
            "the first, from start to a test bound of -105",
            f"{own:.1f} s",
            *_peers({peer: value / own for peer, value in seconds.items()}),
        ]
        lines.append(f"| {' | '.join(cells)} | |")
    return lines


def _peers(ratios: dict[str, float]) -> list[str]:
    """The ratios to the other libraries, in the order of the columns; some are not measured."""
    shown = {peer: f"{ratio:.2f}" for peer, ratio in ratios.items()}
    return [shown.get(peer, "") for peer in _PEERS]


def _seconds(trainings: dict[str, Any]) -> dict[str, float]:
    return {name: entry["seconds"] for name, entry in trainings.items() if name != "commit"}


def _training(title: str, entry: dict[str, Any]) -> list[str]:
    rates, ours = entry["examples_per_second"], entry["examples_per_second"]["lowerbound"]
    lines = _title(title)
    lines += [
        f"Matrix products at {entry['product_gflops']:.0f} GFLOP/s; the floor of a step is "
        f"{entry['floor_ms']:.2f} ms.",
        "",
    ]
    lines += [
        "| | examples/s | lowerbound is | share of the floor | first round | test bound at the end "
        "|"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name, rate in rates.items():
        lines += [
            f"| {name} | {rate:,.0f} | {ours / rate:.2f} x | {entry['share_of_floor'][name]:.2f} | "
            f"{entry['first_round_seconds'][name]:.1f} s | {entry['test_bound'][name]:,.2f} |"
        ]
    if "lowerbound, bfloat16" in rates:
        bfloat16 = rates["lowerbound, bfloat16"]
        bounds = [entry["test_bound"][name] for name in ("lowerbound", "lowerbound, bfloat16")]
        text = _paragraph(
            f"lowerbound in bfloat16 is {bfloat16 / rates['JAX']:.2f} x JAX in float32 "
            f"({bfloat16 / rates['JAX, bfloat16']:.2f} x JAX in bfloat16). Its test bound differs "
            f"from float32's by {abs(bounds[1] / bounds[0] - 1):.2%}."
        )
        lines += ["", text]
    return lines


def _to_the_bound(entry: dict[str, Any]) -> list[str]:
    lines = _title("the first of these, to a test bound of -105 nats")
    lines += ["Seconds of training, compilation included.", ""]
    lines += ["| | seconds | epochs | bound reached |", "|---|---|---|---|"]
    return lines + [
        f"| {name} | {found['seconds']:.1f} | {found['epochs']} | {found['bound']:.2f} |"
        for name, found in entry.items()
        if name != "commit"
    ]


def _busy(tasks: dict[str, Any]) -> list[str]:
    lines = _title("training beside other programs on the same cores")
    text = _paragraph(
        "The other programs are one training of the first model with plain torch, and a shell loop "
        "that compresses small files. Conditions and contenders take turns, for 20 seconds each. "
        "Rates are medians over these blocks. Each contender trains for 6 seconds before a block. "
        "The last column is the ratio of the rates, divided by this ratio on a quiet machine."
    )
    lines += [text, "", "| | | lowerbound | JAX | lowerbound is | share of the quiet ratio |"]
    lines += ["|---|---|---|---|---|---|"]
    for task, entry in tasks.items():
        conditions = entry["examples_per_second"]
        quiet = conditions["quiet"]["lowerbound"] / conditions["quiet"]["JAX"]
        for condition, rates in conditions.items():
            ratio = rates["lowerbound"] / rates["JAX"]
            lines += [
                f"| {_WORK[task]} | {condition} | {rates['lowerbound']:,.0f} examples/s | "
                f"{rates['JAX']:,.0f} | {ratio:.2f} x | {ratio / quiet:.2f} |"
            ]
    return lines


def _likelihood(entry: dict[str, Any]) -> list[str]:
    rates = entry["images_per_second"]
    lines = _title(_LIKELIHOOD)
    lines += ["| | images/s | lowerbound is | share of the floor |", "|---|---|---|---|"]
    return lines + [
        f"| {name} | {rate:.1f} | {rates['lowerbound'] / rate:.2f} x | "
        f"{entry['share_of_floor'][name]:.2f} |"
        for name, rate in rates.items()
    ]


def _memory(entry: dict[str, Any]) -> list[str]:
    lines = _title(f"memory of a log likelihood with K = {entry['samples']:,}")
    return [
        *lines,
        f"The process had {entry['peak_gib']:.2f} GiB at most, and {entry['before_gib']:.2f} GiB "
        "before it began.",
    ]


def _stored(what: str, entry: dict[str, Any]) -> list[str]:
    rates, memory = entry["examples_per_second"], entry["resident_gib"]
    lines = _title(f"{what} of {entry['gigabytes']:.2g} GB in a file")
    text = _paragraph(
        f"{rates['file']:,.0f} examples/s from the file and {rates['memory']:,.0f} from memory: a "
        f"ratio of {entry['ratio']:.3f} (median over pairs of rounds). The process had "
        f"{memory['file']:.2f} GiB at most, and {memory['memory']:.2f} GiB with the data in memory."
    )
    return [*lines, text]


def _precision(entry: dict[str, Any]) -> list[str]:
    lines = _title("test bounds after the same training in float32 and bfloat16")
    lines += ["Bounds of the objective that is trained, in nats; means over seeds.", ""]
    lines += [
        "| | epochs | float32 | bfloat16 | differs by | seeds of float32 differ by |",
        "|---|---|---|---|---|---|",
    ]
    for name, bounds in entry["bounds"].items():
        float32, bfloat16 = (bounds[precision] for precision in ("float32", "bfloat16"))
        means = [sum(values) / len(values) for values in (float32, bfloat16)]
        spread = (max(float32) - min(float32)) / abs(means[0])
        lines += [
            f"| {name} | {bounds['epochs']} | {means[0]:,.2f} | {means[1]:,.2f} | "
            f"{abs(means[1] / means[0] - 1):.2%} | {spread:.2%} |"
        ]
    return lines


def _plain(entry: dict[str, Any]) -> list[str]:
    ours, plain = (sum(found) / len(found) for found in entry["bounds"].values())
    text = _paragraph(
        f"784-200-20-200-784, batches of 1,000, {entry['epochs']} epochs, "
        f"{len(entry['bounds']['plain'])} seeds each: {ours:.2f} nats by lb.fit, and {plain:.2f} "
        "by a loop of a dozen lines. They differ by "
        f"{entry['difference']:+.2f} ± {entry['standard_error']:.2f}."
    )
    return [*_title("test bounds beside a plain training loop in torch"), text]


def _demo(entry: dict[str, Any]) -> list[str]:
    seconds = entry["seconds"]
    lines = _title("the training of make demo, beside that of an earlier commit")
    text = _paragraph(
        f"{seconds['now']:.1f} s from the start of the command, and {seconds['earlier']:.1f} s at "
        f"{entry['revision']}: {seconds['earlier'] / seconds['now']:.2f} x as fast (medians, in "
        "turns)."
    )
    return [*lines, text]


def _growth(entry: dict[str, Any]) -> list[str]:
    lines = _title("growth of the time of a step")
    lines += ["![time of a step against batch size, samples and width](growth.png)", ""]
    lines += ["| | sizes | ms a step | slope at the end |", "|---|---|---|---|"]
    for name, sweep in entry["sweeps"].items():
        times = ", ".join(f"{1e3 * value:.3g}" for value in sweep["seconds"].values())
        lines += [f"| {name} | {', '.join(sweep['seconds'])} | {times} | {sweep['slope']:.2f} |"]
    return lines


def _products(entry: dict[str, Any]) -> list[str]:
    lines = _title("the matrix products of a step, each by itself")
    lines += [
        "The milliseconds are those of the output, of the gradient of the input (which the first\n"
        "layer does not need), and of the gradient of the weights. oneDNN copies the\n"
        "gradient of the output for the last one.",
        "",
    ]
    lines += [
        "| | rows x inputs x outputs | at the large product's rate | with torch | with oneDNN |",
        "|---|---|---|---|---|",
    ]
    for name, layers in entry["tasks"].items():
        for layer in layers:
            sizes = " x ".join(map(str, layer["layer"]))
            cells = [name, sizes, f"{layer['floor']:.2f}"]
            for kind in ("milliseconds", "onednn_milliseconds"):
                cells.append(", ".join(f"{value:.2f}" for value in layer.get(kind, ())))
            lines += [f"| {' | '.join(cells)} |"]
    return lines


def _profiles(entry: dict[str, Any]) -> list[str]:
    lines = []
    for name, text in entry["tables"].items():
        lines += [*_title(f"profile: {name}"), text.rstrip()]
    return lines


_SECTIONS = {
    "to-the-bound": _to_the_bound,
    "likelihood": _likelihood,
    "memory": _memory,
    "array": lambda entry: _stored("an array", entry),
    "pictures": lambda entry: _stored("a folder of pictures", entry),
    "precision": _precision,
    "plain": _plain,
    "demo": _demo,
    "growth": _growth,
    "profiles": _profiles,
    "products": _products,
}
