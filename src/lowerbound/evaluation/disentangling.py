"""How well the units of a code separate the factors of variation that made the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED
from lowerbound.errors import DataError, SettingsError
from lowerbound.evaluation.factor_scores import compute_all_scores
from lowerbound.models import Model
from lowerbound.models.passes import read_examples
from lowerbound.settings import check_seed, check_whole_number

# More examples would make gradient boosting slow, and no score much more certain.
_MOST_EXAMPLES = 10_000
_FEWEST_EXAMPLES = 50


@dataclass(frozen=True, eq=False, kw_only=True)
class Disentanglement:
    """Scores of disentanglement, from 0 to 1; higher is better. ``str()`` gives a table.

    Args:
        examples: N, the number of examples.
        units: J, the number of units of a code.
        mig: the mutual information gap, averaged over factors.
        sap: the separated attribute predictability, averaged over factors.
        disentanglement: how nearly each unit is important for one factor only (DCI).
        completeness: how nearly each factor depends on one unit only (DCI).
        informativeness: how well all units together predict a factor, averaged over factors (DCI).
            It may be below 0 if a numeric factor is predicted worse than by its mean.
        factor_vae: the accuracy of the majority vote of FactorVAE.
        modularity: how nearly each unit has information about one factor only.
        by_factor: ``mig``, ``sap`` and ``informativeness`` of each factor, by its name.
    """

    examples: int
    units: int
    mig: float
    sap: float
    disentanglement: float
    completeness: float
    informativeness: float
    factor_vae: float
    modularity: float
    by_factor: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """The scores in words."""
        yield f"{self.units} units of {self.examples:,} examples"
        yield f"MIG {self.mig:.3f}, SAP {self.sap:.3f}, FactorVAE score {self.factor_vae:.3f}"
        yield (
            f"disentanglement {self.disentanglement:.3f}, completeness {self.completeness:.3f}, "
            f"informativeness {self.informativeness:.3f} (DCI), modularity {self.modularity:.3f}"
        )
        for name, scores in self.by_factor.items():
            values = ", ".join(f"{score} {value:.3f}" for score, value in scores.items())
            yield f"{name}: {values}"


def disentanglement(
    model: Model,
    data: Any,
    factors: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    bins: int = 20,
    seed: int = 0,
) -> Disentanglement:
    """Measure how well the units of a model's code separate the data's factors of variation.

    The code of an example is :meth:`Model.encode <lowerbound.Model.encode>` of it: for most models
    the mean of q(z|x). All scores are computed from codes and factors alone:

    - the *mutual information gap*, MIG (Chen, Li, Grosse & Duvenaud 2018): for each factor, the
      mutual information with the most informative unit less that with the next, as a share of the
      factor's entropy. Units are divided into bins of equal width.
    - *separated attribute predictability*, SAP (Kumar, Sattigeri & Balakrishnan 2018): the same gap
      for how well one unit predicts the factor: the squared correlation for a numeric factor, and
      for categories the balanced accuracy of thresholds.
    - *disentanglement, completeness and informativeness*, DCI (Eastwood & Williams 2018), from the
      importance of units in gradient boosting with scikit-learn.
    - the *FactorVAE score* (Kim & Mnih 2018): the accuracy of telling which factor examples have in
      common, from the unit that varies least among them.
    - *modularity* (Ridgeway & Mozer 2018): how nearly each unit has information about one factor
      only. A unit without information about any factor counts as 0.

    Predictions are learned from one half of the examples and tested on the other. Of more than
    10,000 examples, 10,000 that are evenly spaced are used. The factors should vary independently
    of each other, as in the data set ``sprites``.

    Args:
        model: a trained model.
        data: examples, or raw data that the model takes, ``[N, *event]``.
        factors: the names of the examples' fields to use, or the factors themselves by name,
            ``[N]`` each. Integers are categories, and floating-point values are numeric. By default
            all fields with one value for each example.
        bins: the number of bins of a unit. Numeric factors are divided into as many bins if they
            have more than 100 different values, or more than a quarter of the number of examples.
        seed: of the split and of the sets of examples.

    Returns:
        A :class:`~lowerbound.evaluation.Disentanglement`.

    Raises:
        DataError: if the factors do not fit, naming the factor; for fewer than 50 examples or two
            factors.
        SettingsError: for a seed or a number of bins that is out of range.

    Example:
        >>> import lowerbound as lb
        >>> from lowerbound.data import make_sprites
        >>> sprites = make_sprites(200)
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(4),
        ...     lb.Gaussian(lb.mlp((1, 64, 64), 8)),
        ...     lb.Bernoulli(lb.mlp(4, (1, 64, 64))),
        ... )
        >>> scores = disentanglement(vae, sprites, factors=["scale", "position_x"])
        >>> 0 <= scores.mig <= 1, list(scores.by_factor)
        (True, ['scale', 'position_x'])
    """
    _check_settings(bins, seed)
    examples = read_examples(model, data)
    if isinstance(factors, str):
        factors = [factors]
    if not isinstance(factors, Mapping):
        factors = _select_fields(examples, factors)
    given = {name: _read_factor(name, values, len(examples)) for name, values in factors.items()}
    _check_numbers(len(examples), len(given))
    count = min(len(examples), _MOST_EXAMPLES)
    index = torch.linspace(0, len(examples) - 1, count).round().long()
    codes = model.encode(examples.subset(index))
    if isinstance(codes, Tensor):
        codes = {"z": codes}
    flat = torch.cat([group.flatten(1).double().cpu() for group in codes.values()], 1)
    chosen = {name: values[index.numpy()] for name, values in given.items()}
    return score_codes(flat, chosen, bins=bins, seed=seed)


def score_codes(
    codes: Any, factors: Mapping[str, Any], *, bins: int = 20, seed: int = 0
) -> Disentanglement:
    """Compute the scores of :func:`lowerbound.disentanglement` for codes that are already known.

    Args:
        codes: the code of each example, ``[N, J]``.
        factors: the factors by name, ``[N]`` each, see :func:`lowerbound.disentanglement`.
        bins: see there.
        seed: see there.

    Raises:
        DataError, SettingsError: see there.

    Example:
        >>> values = np.random.default_rng(0).random((500, 2))
        >>> scores = score_codes(values, {"first": values[:, 0], "second": values[:, 1]})
        >>> scores.mig > 0.8, scores.sap > 0.9, scores.disentanglement > 0.9
        (True, True, True)
    """
    bins, seed = _check_settings(bins, seed)
    known = np.asarray(codes, dtype=np.float64)
    if known.ndim != 2 or not np.isfinite(known).all():
        raise DataError(
            f"disentanglement: codes of shape {known.shape} must be finite and have the shape "
            "[N, J]"
        )
    read = {name: _read_factor(name, values, len(known)) for name, values in factors.items()}
    _check_numbers(len(known), len(read))
    scores = compute_all_scores(known, read, bins=bins, seed=seed)
    return Disentanglement(examples=len(known), units=known.shape[1], **scores)


def _check_settings(bins: int, seed: int) -> tuple[int, int]:
    bins = check_whole_number("disentanglement: bins", bins)
    if bins < 2:
        raise SettingsError("disentanglement: bins=1 tells no values apart; give at least 2")
    return bins, check_seed("disentanglement", seed)


def _check_numbers(examples: int, factors: int) -> None:
    if examples < _FEWEST_EXAMPLES or factors < 2:
        raise DataError(
            f"disentanglement: there are too few examples ({examples}) or factors ({factors}); "
            f"give at least {_FEWEST_EXAMPLES} examples and two factors"
        )


def _select_fields(examples: Examples, names: Sequence[str] | None) -> dict[str, Tensor]:
    fields = {name: value for name, value in examples.all_fields.items() if name != OBSERVED}
    if names is None:
        return {name: value for name, value in fields.items() if value.dim() == 1}
    unknown = [name for name in names if name not in fields]
    if unknown:
        raise DataError(
            f"disentanglement: {unknown[0]!r} is not a field of {examples.name}; the fields are: "
            f"{', '.join(fields) or 'none'}"
        )
    return {name: fields[name] for name in names}


def _read_factor(name: str, values: Any, count: int) -> np.ndarray[Any, Any]:
    """Read a factor as integers or float64, ``[N]``."""
    if isinstance(values, Tensor):
        values = values.cpu()
    factor = np.asarray(values)
    if factor.dtype.kind == "O" and len(set(map(type, factor.tolist()))) == 1:
        factor = np.array(factor.tolist())  # such as a column of text in pandas
    if factor.shape != (count,):
        raise DataError(
            f"disentanglement: the factor {name!r} has the shape {factor.shape}; it must have one "
            f"value for each example, ({count},)"
        )
    if factor.dtype.kind not in "biufUS":
        raise DataError(
            f"disentanglement: the factor {name!r} has values of type {factor.dtype}; give "
            "numbers, or names of categories as strings"
        )
    if factor.dtype.kind == "f":
        factor = factor.astype(np.float64)
        if not np.isfinite(factor).all():
            raise DataError(f"disentanglement: the factor {name!r} has non-finite values")
    return factor
