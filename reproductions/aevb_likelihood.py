"""Figure 3 of Kingma & Welling 2013: marginal likelihood against training samples.

    python reproductions/aevb_likelihood.py [aevb-1000 wake-sleep-1000 mcem-1000 aevb-50000 ...]

AEVB, wake-sleep and Monte Carlo EM are compared. A curve that was stopped resumes from its state in
runs/aevb-likelihood/NAME. A finished curve is in docs/results/aevb-likelihood/NAME.json and is not
trained again. At the end, docs/results/aevb-likelihood.md and its figure are written from all
finished curves.
"""

import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from aevb_curves import BATCH, METHODS, RATES, TRIAL_STEPS, train
from choices import choose_parts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from page_text import paragraph, read_results, table
from safetensors.torch import load_file, save_file
from scipy.stats import qmc
from torch import Tensor

import lowerbound as lb
from lowerbound.evaluation.annealing import AnnealingPath
from lowerbound.runtime.noise import derived_seed
from lowerbound.training.loop import Loop

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "aevb-likelihood"
RUNS = ROOT / "runs" / "aevb-likelihood"

LATENT, HIDDEN = 3, 100
SIZES = (1_000, 50_000)
NAMES = {"aevb": "AEVB", "wake-sleep": "wake-sleep", "mcem": "Monte Carlo EM"}
# The number of training samples of a curve. Monte Carlo EM decodes sixteen times where AEVB decodes
# once.
SAMPLES = {"aevb": 10_000_000, "wake-sleep": 10_000_000, "mcem": 3_000_000}
POINTS = [round(1e5 * 10 ** (i / 4) / BATCH) for i in range(9)]
# log p(x) of EXAMPLES examples is estimated with GRID points of a Sobol sequence under the prior.
GRID, EXAMPLES = 1 << 19, 200
LEAPFROG_STEPS, ACCEPTANCE, WEIGHT_UPDATES = 10, 0.9, 5


@torch.no_grad()
def marginal_likelihood(model: lb.LatentModel, x: Tensor) -> tuple[float, float]:
    """The mean of log p(x) over ``x``, and the median number of effective points.

    p(x) = E_p(z)[p(x|z)] is integrated by quasi-Monte-Carlo over the three latents, with the
    same points for all examples. No encoder takes part, so methods can be compared.
    """
    points = torch.from_numpy(qmc.Sobol(LATENT, seed=0).random(GRID)).clamp(1e-9, 1 - 1e-9)
    latents = torch.special.ndtri(points).float()
    total = torch.full((len(x),), -math.inf, dtype=torch.float64)
    squares = total.clone()
    flat = x.flatten(1)
    for z in latents.split(8192):
        logits = model.likelihood(z[None]).logits[0].flatten(1)
        terms = (flat @ logits.T - torch.nn.functional.softplus(logits).sum(1)).double()
        total = torch.logaddexp(total, terms.logsumexp(1))
        squares = torch.logaddexp(squares, (2 * terms).logsumexp(1))
    return float((total - math.log(GRID)).mean()), float((2 * total - squares).exp().median())


def make(method: str, shape: tuple[int, ...]) -> tuple[lb.LatentModel, lb.Objective]:
    """The paper's small network, with weights from N(0, 0.01)."""
    torch.manual_seed(0)
    kind, objective = METHODS[method]
    model = kind(
        lb.StandardNormal(LATENT),
        lb.Gaussian(lb.mlp(shape, HIDDEN, 2 * LATENT, activation="tanh")),
        lb.Bernoulli(lb.mlp(LATENT, HIDDEN, shape, activation="tanh")),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model, objective


@dataclass
class Curve(lb.Observer):
    """Measures the marginal likelihood of training and test examples at given steps."""

    path: Path
    parts: dict[str, Tensor]
    points: list[dict[str, float]] = field(default_factory=list)

    def restart(self, step: int) -> None:
        """Read the points that were measured up to a step."""
        if self.path.exists():
            known = json.loads(self.path.read_text())
            self.points = [point for point in known if point["samples"] <= step * BATCH]

    def measure(self, model: lb.LatentModel, step: int, *, last: bool = False) -> None:
        """Add a point to the curve at the steps of ``POINTS`` and at its end."""
        samples = step * BATCH
        measured = any(point["samples"] == samples for point in self.points)
        if measured or not (last or step in POINTS):
            return
        point: dict[str, float] = {"samples": samples}
        for part, x in self.parts.items():
            point[part], point[f"{part}_effective"] = marginal_likelihood(model, x)
        self.points.append(point)
        self.path.write_text(json.dumps(self.points))

    def on_start(self, loop: Loop) -> None:
        """Resume the curve of an earlier process."""
        self.restart(loop.progress.step)

    def on_step(self, loop: Loop) -> None:
        """Measure the model at the steps of the curve."""
        model: Any = loop.model
        self.measure(model, loop.progress.step)


class MonteCarloEM:
    """Draws z from p(z|x) by Hamiltonian Monte Carlo, then maximises log p(x, z).

    Each visit of an example adds one trajectory to its chain, and some updates of the weights
    follow. The step size of the trajectories is tuned for an acceptance of 90%. The noise of an
    iteration depends on its number alone, so a resumed run equals one that never stopped.
    """

    def __init__(self, examples: lb.Examples, rate: float) -> None:
        self.examples = examples
        self.model, _ = make("aevb", examples.shape)
        decay = 1 / len(examples)
        self.optimizer = torch.optim.Adagrad(
            self.model.likelihood.parameters(), lr=rate, weight_decay=decay, fused=True
        )
        torch.manual_seed(derived_seed(0, "chains"))
        self.z = torch.randn(len(examples), LATENT)
        self.log_step = torch.tensor(math.log(0.1), dtype=torch.float64)
        self.iteration = 0

    def iterate(self) -> None:
        """Take one batch: a trajectory for each of its chains, then five updates of the weights."""
        per_epoch = len(self.examples) // BATCH
        epoch, batch = divmod(self.iteration, per_epoch)
        generator = torch.Generator().manual_seed(derived_seed(0, "order", epoch))
        index = torch.randperm(len(self.examples), generator=generator)[
            batch * BATCH : (batch + 1) * BATCH
        ]
        torch.manual_seed(derived_seed(0, "iteration", self.iteration))
        x = self.examples.batch(index)
        with torch.no_grad():
            posterior = AnnealingPath(
                self.model, x, {"distributions": 2, "leapfrog_steps": LEAPFROG_STEPS}
            )
            step = self.log_step.exp().expand(len(x))
            state, chance = posterior.transition(
                posterior.make_state(self.z[index][None]), 1.0, step
            )
            self.z[index] = state.z[0]
            self.log_step += 0.05 * (chance.mean() - ACCEPTANCE)
        z = self.z[index][None]
        for _ in range(WEIGHT_UPDATES):
            self.optimizer.zero_grad()
            (-self.model.likelihood(z).log_prob(x).mean()).backward()
            self.optimizer.step()
        self.iteration += 1

    def save(self, path: Path) -> None:
        """Write everything that a later process needs to resume."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, state in enumerate(self.optimizer.state.values()):
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        tensors |= {
            "z": self.z,
            "log_step": self.log_step,
            "iteration": torch.tensor(self.iteration),
        }
        save_file(tensors, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, path: Path) -> None:
        """Read what ``save`` wrote."""
        tensors = load_file(path)
        self.model.load_state_dict(
            {name: tensors[f"model.{name}"] for name in self.model.state_dict()}
        )
        for number, state in enumerate(self.optimizer.state.values()):
            for name, value in state.items():
                value.copy_(tensors[f"optimizer.{number}.{name}"])
        self.z, self.log_step = tensors["z"], tensors["log_step"]
        self.iteration = int(tensors["iteration"])


def try_rate(method: str, rate: float, examples: lb.Examples, x: Tensor) -> float:
    """The marginal likelihood after a few hundred steps; minus infinity if the training failed."""
    if method == "mcem":
        em = MonteCarloEM(examples, rate)
        for _ in range(TRIAL_STEPS):
            em.iterate()
        return marginal_likelihood(em.model, x)[0]
    model, objective = make(method, examples.shape)
    try:
        train(model, objective, examples, rate, steps=TRIAL_STEPS, progress=False)
    except lb.errors.NonFiniteError:
        return -math.inf
    return marginal_likelihood(model, x)[0]


def run(name: str) -> None:
    """Train one curve, or resume it."""
    target = RESULTS / f"{name}.json"
    if target.exists():
        print(f"{name}: {target} exists already", file=sys.stderr)
        return
    method, size = name.rsplit("-", 1)
    data = lb.load_data("mnist", pixels="binarize")
    examples = data.train.subset(torch.arange(int(size)))
    parts = {
        part: lb.Examples.prepare(source.spread(EXAMPLES), "binarize-once", seed=1).batch(
            torch.arange(EXAMPLES)
        )
        for part, source in (("train", examples), ("test", data.test))
    }
    directory = RUNS / name
    directory.mkdir(parents=True, exist_ok=True)
    choice = directory / "rate.json"
    if not choice.exists():
        rates = {rate: try_rate(method, rate, examples, parts["train"]) for rate in RATES}
        choice.write_text(json.dumps(max(rates, key=lambda rate: rates[rate])))
    rate = json.loads(choice.read_text())
    curve, steps = Curve(directory / "curve.json", parts), SAMPLES[method] // BATCH
    if method == "mcem":
        run_em(MonteCarloEM(examples, rate), curve, steps, directory / "state.safetensors")
    else:
        model, objective = make(method, examples.shape)
        train(
            model,
            objective,
            examples,
            rate,
            steps=steps,
            directory=directory / "run",
            resume=(directory / "run" / "config.yaml").exists(),
            pictures_every=0,
            progress=False,
            observers=[curve],
        )
    result = {
        "method": method,
        "examples": int(size),
        "rate": rate,
        "points": curve.points,
        "grid": GRID,
        "evaluated_examples": EXAMPLES,
        "torch": torch.__version__,
        "lowerbound": lb.__version__,
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    print(f"{name}: rate {rate}, {curve.points[-1]}", file=sys.stderr)


def run_em(em: MonteCarloEM, curve: Curve, steps: int, path: Path) -> None:
    """Run Monte Carlo EM to its end, and write its state every minute."""
    if path.exists():
        em.load(path)
    curve.restart(em.iteration)
    written = time.monotonic()
    while em.iteration < steps:
        em.iterate()
        curve.measure(em.model, em.iteration)
        if time.monotonic() - written > 60:
            em.save(path)
            written = time.monotonic()
    em.save(path)
    curve.measure(em.model, em.iteration, last=True)


def names() -> list[str]:
    """All curves."""
    return [f"{method}-{size}" for size in SIZES for method in NAMES]


def plot_curves(axes: Any, size: int, done: dict[str, dict[str, Any]]) -> None:
    """One panel: all methods with one number of training examples."""
    colours = {"aevb": "#d1495b", "wake-sleep": "#1f6f8b", "mcem": "#66a182"}
    for method, colour in colours.items():
        points = done.get(f"{method}-{size}", {}).get("points", [])
        x = [point["samples"] for point in points]
        for part, line in (("train", "-"), ("test", "--")):
            y = [point[part] for point in points]
            label = f"{NAMES[method]} ({part})"
            axes.plot(x, y, line, color=colour, marker=".", label=label)
    axes.set(xscale="log", xlim=(8e4, 1.25e7), title=f"N = {size:,}", xlabel="training samples")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_figure(done: dict[str, dict[str, Any]]) -> None:
    """The figure: a panel for each number of training examples."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, size in zip(figure.subplots(1, 2), SIZES, strict=True):
        plot_curves(axes, size, done)
    figure.axes[0].set_ylabel("log p(x) (nats per example)")
    handles = {
        label: line
        for axes in figure.axes
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.axes[1].legend(
        handles.values(), handles.keys(), frameon=False, fontsize=8, loc="lower right"
    )
    figure.savefig(RESULTS / "figure.png", dpi=120)


HEAD = "curve | learning rate | training samples | log p(x), train | test | effective points"


def table_rows(name: str, result: dict[str, Any]) -> list[list[str]]:
    """A curve at a million samples and at its end."""
    shown = {10**6, result["points"][-1]["samples"]}
    return [
        [
            f"[{name}](aevb-likelihood/{name}.json)",
            f"{result['rate']}",
            f"{point['samples']:,}",
            f"{point['train']:.2f}",
            f"{point['test']:.2f}",
            f"{point['test_effective']:,.0f}",
        ]
        for point in result["points"]
        if point["samples"] in shown
    ]


def write_page() -> None:
    """Write docs/results/aevb-likelihood.md and its figure from all finished curves."""
    done = read_results(RESULTS, names())
    draw_figure(done)
    rows = [line for name, result in done.items() for line in table_rows(name, result)]
    lines = [
        "# The marginal likelihood of AEVB, wake-sleep and Monte Carlo EM",
        "",
        paragraph(
            "Figure 3 of Kingma & Welling, *Auto-Encoding Variational Bayes*, 2013",
            "(arXiv:1312.6114). `python reproductions/aevb_likelihood.py` writes this page.",
        ),
        "",
        paragraph(
            f"The data are MNIST, binarised anew at every epoch. Encoder and decoder have {HIDDEN}",
            f"tanh units, and there are {LATENT} latents. The weights are initialised from",
            "N(0, 0.01) and have the prior N(0, I). Training uses batches of 100, and Adagrad with",
            "the learning rate among 0.01, 0.02 and 0.1 that did best on training examples in the",
            f"first {TRIAL_STEPS} steps. Monte Carlo EM runs one Hamiltonian trajectory of",
            f"{LEAPFROG_STEPS} leapfrog steps for each visit to an example, starting where the",
            f"example's chain ended and tuned to {ACCEPTANCE:.0%} acceptance; then it updates the",
            f"weights {WEIGHT_UPDATES} times. A training sample costs about sixteen times as much",
            f"as in the other methods. Monte Carlo EM ends at {SAMPLES['mcem']:,} samples, and",
            f"the others at {SAMPLES['aevb']:,} (in the paper: 60 million).",
        ),
        "",
        paragraph(
            f"log p(x) is measured on {EXAMPLES} training and {EXAMPLES} test examples, binarised",
            f"once, by quasi-Monte-Carlo integration over the latents with {GRID:,} points under",
            "the prior. The encoder is not used. The effective number of points is the median",
            "over test examples at the end of the curve. All curves are measured on the same",
            "examples, so methods can be compared. The curves of training examples and those of",
            "test examples are measured on different examples, which are so few that their means",
            "also differ by chance.",
        ),
        "",
        *table(HEAD, rows),
        "",
        "![figure 3](aevb-likelihood/figure.png)",
        "",
    ]
    missing = [name for name in names() if name not in done]
    if missing:
        lines += [paragraph(f"Not yet trained: {', '.join(missing)}."), ""]
    (RESULTS.parent / "aevb-likelihood.md").write_text("\n".join(lines), encoding="utf8")


if __name__ == "__main__":
    names_of_curves = choose_parts(__name__, names())
    RESULTS.mkdir(parents=True, exist_ok=True)
    for chosen in names_of_curves:
        run(chosen)
    write_page()
