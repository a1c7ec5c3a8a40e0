"""Checks that data lie in the support of a likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

from lowerbound.conditionals import Conditional
from lowerbound.conditionals.base import check_fields, select_fields
from lowerbound.conditionals.given import unwrap
from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED, refuse_ignored_mask
from lowerbound.distributions import MaskedDistribution, find_entry_support, has_point_masses
from lowerbound.errors import DataError
from lowerbound.models.measuring import draw_likelihood
from lowerbound.models.passes import iterate_batches

# The number of examples that are checked if pixels are drawn as 0 or 1, and so all alike.
_BINARY_EXAMPLES = 64


def check_support(model: nn.Module, likelihood: nn.Module, examples: Examples) -> None:
    """Refuse fields that the model cannot use, and data outside of the likelihood's support.

    The check uses the likelihood's ``check_data``, and the support that its distribution declares,
    unless the support depends on the latents or on fields.

    Raises:
        DataError: naming the row.
    """
    schema = getattr(examples.preprocessing, "schema", None)
    if schema is not None and not hasattr(unwrap(likelihood), "schema"):
        raise DataError(
            f"{examples.name}: the examples are rows of a table, whose numbers are standardised "
            f"and coded, and a {_name_likelihood(likelihood)} does not know its columns; use the "
            "recipe table (lb.TableModel), or give plain numbers as lb.Examples.of(frame)"
        )
    needs, accepts = getattr(model, "needs", ()), getattr(model, "accepts", ())
    everything = examples.given(torch.arange(len(examples)), needs, accepts)
    refuse_ignored_mask(examples.all_fields, _list_field_names(likelihood), (), examples.name)
    check_fields(model, everything, _get_rows(examples), examples.name)
    p = draw_likelihood(model, examples)
    if p is None:
        return
    if has_point_masses(p) and examples.pixels == "dequantize":
        raise DataError(
            f"{examples.name}: pixels='dequantize' makes the pixels continuous, but the "
            f"likelihood's {_find_name(p)} gives single values a probability; leave "
            "pixels='as-is', or use a density such as lb.Gaussian"
        )
    own_check = _find_own_check(likelihood)
    support = _find_fixed_support(p, likelihood)
    if own_check is None and support is None:
        return
    some = examples
    if examples.pixels == "binarize":
        some = examples.first(_BINARY_EXAMPLES)
    for rows, x, given in iterate_batches(some, model, seed=0):
        if own_check is not None:
            own_check(x, rows, examples.name, **select_fields(likelihood, given))
        if support is not None:
            _refuse_outside(p, support, (rows, x, given.get(OBSERVED)), examples)


def _name_likelihood(likelihood: nn.Module) -> str:
    return f"{type(unwrap(likelihood)).__name__} likelihood"


def _get_rows(examples: Examples) -> Tensor:
    if examples.rows is None:
        return torch.arange(len(examples))
    return examples.rows


def _find_own_check(likelihood: nn.Module) -> Any:
    """Find the method ``check_data`` that a class wrote for its own distribution."""
    own = getattr(type(unwrap(likelihood)), "check_data", Conditional.check_data)
    if own is Conditional.check_data:
        return None
    return likelihood.check_data


def _find_fixed_support(p: Distribution, likelihood: nn.Module) -> constraints.Constraint | None:
    """Find the support of p, if it restricts values and is the same for all examples."""
    fields = set(_list_field_names(likelihood))
    if isinstance(p, MaskedDistribution):
        p = p.base
        fields.discard(OBSERVED)
    support = find_entry_support(p)
    if support is None or support is constraints.real:
        return None
    bounds = list(_iterate_tensors(support))
    if bounds and fields:
        return None
    if any(_varies_within_batch(bound, len(p.event_shape)) for bound in bounds):
        return None
    return support


def _list_field_names(part: nn.Module) -> Sequence[str]:
    return (*getattr(part, "needs", ()), *getattr(part, "accepts", ()))


def _iterate_tensors(support: constraints.Constraint) -> Iterator[Tensor]:
    """Yield the tensors that a support depends on, such as the bounds of an interval."""
    for value in vars(support).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, constraints.Constraint):
            yield from _iterate_tensors(value)


def _varies_within_batch(bound: Tensor, event_dims: int) -> bool:
    """Whether a bound differs between pairs of a sample and an example."""
    if bound.dim() <= event_dims:
        return False
    of_pairs = bound.flatten(0, bound.dim() - event_dims - 1)
    return bool((of_pairs != of_pairs[0]).any())


def _refuse_outside(
    p: Distribution,
    support: constraints.Constraint,
    batch: tuple[Tensor, Tensor, Tensor | None],
    examples: Examples,
) -> None:
    rows, x, observed = batch
    # The bounds may have the batch shape of p, [1, 3].
    inside = support.check(x[:, None, None])
    if observed is not None and isinstance(p, MaskedDistribution):
        hidden = ~observed[:, None, None]
        if joint := hidden.dim() - inside.dim():  # entries that the support checks together
            hidden = hidden.flatten(-joint).all(-1)
        inside = inside | hidden
    inside = inside.flatten(1)
    bad = ~inside.all(1)
    if not bool(bad.any()):
        return
    place = int(bad.nonzero()[0])
    entries = x[place].flatten()
    where = f"{examples.name}: row {int(rows[place])}"
    if inside.shape[1] % len(entries) == 0:
        entry = int((~inside[place]).nonzero()[0]) % len(entries)
        where += f", entry {entry} is {entries[entry].item():.6g}, which"
    advice = "transform the data, or use another likelihood"
    if support.is_discrete and examples.levels is not None:
        advice = "pixels are scaled to [0, 1]; if they are counts, pass kind='counts'"
    raise DataError(
        f"{where} lies outside of the support of the likelihood's {_find_name(p)}, {support}; "
        f"{advice}"
    )


def _find_name(p: Distribution) -> str:
    """Find the name of a distribution's class, inside of any wrappers."""
    while True:
        inner = getattr(p, "base_dist", getattr(p, "base", None))
        if inner is None or not isinstance(p, Independent | MaskedDistribution):
            return type(p).__name__
        p = inner
