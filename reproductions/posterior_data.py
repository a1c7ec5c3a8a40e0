"""The posteriors that are compared: their data, their unknowns and the coordinates that are used.

Only numpy is imported, because the sampler (reference_draws.py) and lowerbound
(posterior_models.py) both read this file. They share nothing else: each has its own code for the
models.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "posteriors"
GRUNFELD = Path(__file__).with_name("grunfeld.csv")

Arrays = dict[str, np.ndarray]

# Rubin 1981, table 1: the effect of coaching in eight schools, and its standard error.
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

FIRMS = 11


@dataclass(frozen=True)
class Problem:
    """A posterior.

    Args:
        title: its name on the page.
        unknowns: their shapes by name, in the order of the vector u of real numbers.
        positive: the names of the positive unknowns; u contains their logarithms.
        data: returns what the log joint is given.
        original: from u ``[N, J]`` to the values that a reader asks about, by name, ``[N]`` each.
    """

    title: str
    unknowns: dict[str, tuple[int, ...]]
    positive: tuple[str, ...]
    data: Callable[[], Arrays]
    original: Callable[["Problem", np.ndarray], Arrays]

    @property
    def coordinates(self) -> list[str]:
        """A name for each entry of u."""
        names = []
        for name, shape in self.unknowns.items():
            if name in self.positive:
                names.append(f"log {name}")
            elif not shape:
                names.append(name)
            else:
                names += [f"{name}[{entry + 1}]" for entry in range(int(np.prod(shape)))]
        return names

    def split(self, u: np.ndarray) -> Arrays:
        """The unknowns by name, ``[*leading, *shape]``; positive ones are still logarithms."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.unknowns.values()])[:-1]
        parts = np.split(u, ends, -1)
        return {
            name: part.reshape(*u.shape[:-1], *shape)
            for (name, shape), part in zip(self.unknowns.items(), parts, strict=True)
        }

    def originals(self, u: np.ndarray) -> Arrays:
        """The values that a reader asks about, by name, ``[N]`` each."""
        return self.original(self, u)


def on_their_scales(problem: Problem, u: np.ndarray) -> Arrays:
    """Every entry of u, with the exponential of every logarithm."""
    names = [name.removeprefix("log ") for name in problem.coordinates]
    logs = np.array([name.startswith("log ") for name in problem.coordinates])
    values = np.where(logs, np.exp(np.where(logs, u, 0.0)), u)
    return dict(zip(names, np.moveaxis(values, -1, 0), strict=True))


def with_school_effects(problem: Problem, u: np.ndarray) -> Arrays:
    """The mean, the spread and the effect of each school, from standardised effects."""
    parts = problem.split(u)
    spread = np.exp(parts["spread"])
    effects = parts["mean"][:, None] + spread[:, None] * parts["standardised"]
    return {
        "mean": parts["mean"],
        "spread": spread,
        **{f"effects[{school + 1}]": effects[:, school] for school in range(len(EFFECT))},
    }


def schools() -> Arrays:
    return {"effect": EFFECT, "error": ERROR}


def breast_cancer() -> Arrays:
    """The Wisconsin diagnostic data (Wolberg, Mangasarian & Street 1993), from scikit-learn.

    569 tumours and 30 columns.
    """
    from sklearn.datasets import load_breast_cancer

    inputs, benign = load_breast_cancer(return_X_y=True)
    return {"inputs": (inputs - inputs.mean(0)) / inputs.std(0), "outcome": benign.astype(float)}


def grunfeld() -> Arrays:
    """The investment of 11 firms in 20 years (Grunfeld 1958; Kleiber & Zeileis 2010).

    The columns are standardised logarithms.
    """
    with GRUNFELD.open(encoding="utf8") as lines:
        rows = list(csv.DictReader(lines))
    firms = sorted({row["firm"] for row in rows})
    assert len(firms) == FIRMS
    columns = {}
    for name in ("invest", "value", "capital"):
        column = np.log([float(row[name]) for row in rows])
        columns[name] = (column - column.mean()) / column.std()
    return {**columns, "firm": np.array([firms.index(row["firm"]) for row in rows])}


PROBLEMS = {
    "schools": Problem(
        "eight schools, non-centred",
        {"mean": (), "spread": (), "standardised": (8,)},
        ("spread",),
        schools,
        with_school_effects,
    ),
    "schools-centred": Problem(
        "eight schools, centred",
        {"mean": (), "spread": (), "effects": (8,)},
        ("spread",),
        schools,
        on_their_scales,
    ),
    "logistic": Problem(
        "logistic regression",
        {"intercept": (), "weights": (30,)},
        (),
        breast_cancer,
        on_their_scales,
    ),
    "hierarchical": Problem(
        "hierarchical regression",
        {
            "level": (),
            "slope": (),
            "value": (),
            "level_spread": (),
            "slope_spread": (),
            "noise": (),
            "levels": (FIRMS,),
            "slopes": (FIRMS,),
        },
        ("level_spread", "slope_spread", "noise"),
        grunfeld,
        on_their_scales,
    ),
}
