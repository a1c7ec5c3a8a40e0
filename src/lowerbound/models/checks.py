"""Checks that the parts of a latent-variable model fit each other and the data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.distributions import (
    find_entry_support,
    is_mass,
    is_point,
    lies_within,
    unwrap_independent,
)
from lowerbound.errors import DataError, ShapeError, UnsupportedError
from lowerbound.runtime import noise
from lowerbound.runtime.modes import evaluating, seeded

# The examples with which layers are checked: more than one, since a network may normalise over
# them, and a number that is seldom the size of an event, which it could be mistaken for.
_EXAMPLES = 5


class PartsError(ShapeError):
    """Two parts of a model do not fit each other, whatever the data are."""


def describe_non_distribution(role: str, part: Any) -> str:
    """Write the error message for a part that did not return a distribution."""
    return (
        f"the {role} returned a {type(part).__name__}; its forward must return a "
        "torch.distributions.Distribution"
    )


def check_distribution(role: str, part: Any) -> None:
    """Refuse what a part returned if it is not a distribution, by the role of the part."""
    if not isinstance(part, Distribution):
        raise UnsupportedError(describe_non_distribution(role, part))


def call_prior(prior: Any, fields: Mapping[str, Tensor], *inputs: Tensor) -> Any:
    """Call a prior with its fields and, below the top layer, with the state above.

    Raises:
        UnsupportedError: if its ``forward`` needs other inputs, as that of a network does.
    """
    try:
        return prior(*inputs, **fields)
    except TypeError as error:
        if _fits(getattr(prior, "forward", prior), inputs, fields):
            raise
        raise UnsupportedError(
            f"the prior, a {type(prior).__name__}, does not accept the inputs that it gets "
            f"({error}). A prior gets only the fields that it needs and, below the top layer, what "
            "the layers above give. It returns a distribution, as lb.StandardNormal(...) does"
        ) from error


def _fits(function: Any, inputs: tuple[Tensor, ...], fields: Mapping[str, Tensor]) -> bool:
    """Whether a function can be called with these arguments, as far as that is known."""
    try:
        inspect.signature(function).bind(*inputs, **fields)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        pass
    return True


def check_posterior(q: Distribution, prior: Distribution, x: Tensor) -> None:
    """Refuse a mismatch of shapes by name, because shapes would broadcast silently."""
    if not isinstance(prior, Distribution):
        raise UnsupportedError(describe_non_distribution("prior", prior))
    if q.batch_shape != x.shape[:1]:
        raise ShapeError(
            f"the posterior returned batch shape {tuple(q.batch_shape)} and event shape "
            f"{tuple(q.event_shape)} for {len(x)} examples; the batch shape must be "
            f"({len(x)},), see torch.distributions.Independent"
        )
    if q.event_shape != prior.event_shape:
        raise PartsError(
            f"the posterior is over events of shape {tuple(q.event_shape)}, but the prior is over "
            f"{tuple(prior.event_shape)}; give both the same shape"
        )
    if not torch.compiler.is_compiling():
        check_measures(q, prior)


def check_measures(q: Distribution, prior: Distribution, of: str = "") -> None:
    """Refuse a posterior without a density with respect to the prior.

    The ratio of their densities means nothing if one is a mass, if one is over unit vectors or
    another set without a volume, or if the posterior has draws where the prior has none.

    Args:
        q: the posterior.
        prior: the prior.
        of: what follows their names in messages.

    Raises:
        UnsupportedError: naming both.
    """
    prior_name = f"the prior{of}'s {type(unwrap_independent(prior)).__name__}"
    q_name = f"the posterior's {type(unwrap_independent(q)).__name__}"
    if is_point(prior):
        raise UnsupportedError(
            f"{prior_name} has all its probability at single points, so draws from {q_name} have "
            "no probability under it; use a prior that gives all of them one, such as "
            "lb.StandardNormal, or lb.CodePrior for codes"
        )
    if {is_mass(q), is_mass(prior)} == {True, False}:
        kinds = ("continuous", "discrete")
        raise UnsupportedError(
            f"{prior_name} is {kinds[bool(is_mass(prior))]} and {q_name} is "
            f"{kinds[bool(is_mass(q))]}: neither has a density under the other; use two of one kind"
        )
    ours, theirs = find_entry_support(q), find_entry_support(prior)
    if ours is None or theirs is None:
        return
    if not lies_within(ours, theirs):
        raise UnsupportedError(
            f"{prior_name} is over {theirs}, and {q_name} is over {ours}, so some or all of its "
            "draws have no probability under the prior; use a posterior over the prior's values, "
            "or a prior over the posterior's"
        )
    books = [getattr(support, "codebook", None) for support in (ours, theirs)]
    if None not in books and books[0] is not books[1]:
        raise UnsupportedError(
            f"the prior{of} is over the codes of another {type(books[1]).__name__} than the "
            "posterior, so its probabilities are of other vectors; make the prior with the model's "
            "own posterior, such as lb.CodePrior(model.posterior)"
        )


def check_layers(model: Any, x: Tensor, given: Mapping[str, Tensor]) -> None:
    """Refuse layers whose posterior and prior do not fit each other, before anything is drawn.

    The distributions of a layer depend on draws of other layers. So they are computed for a few
    examples, with separate noise, and again only if parts or shapes have changed.

    Args:
        model: a :class:`lowerbound.LayeredModel`.
        x: data, ``[B, *event]``.
        given: the fields that the model needs, ``[B, ...]`` each.

    Raises:
        ShapeError, UnsupportedError: naming the layer.
    """
    if torch.compiler.is_compiling() or not len(x):
        return
    parts = (x.shape[1:], *map(id, model.priors), *map(id, model.posteriors))
    if model.__dict__.get("_checked_layers") == parts:
        return
    fields = {name: value[:_EXAMPLES] for name, value in given.items()}

    def check(name: str, prior: Distribution) -> Tensor:
        q = posteriors[name]
        if q.event_shape != prior.event_shape:
            raise PartsError(
                f"the posterior of {name!r} is over events of shape {tuple(q.event_shape)}, but "
                f"its prior is over {tuple(prior.event_shape)}; give both the same shape (a "
                "torch.distributions.Independent makes batch dimensions part of the event)"
            )
        check_measures(q, prior, f" of {name!r}")
        z: Tensor = q.sample()
        return z

    # Its noise is not that of the examples, whose streams would go on from here.
    own = noise.per_example(0, torch.zeros(len(x[:_EXAMPLES]), dtype=torch.long))
    with evaluating(model), seeded(0, x.device), own:
        posteriors = model.posterior_given(x[:_EXAMPLES], fields).groups
        model.visit_priors(fields, check)
    model.__dict__["_checked_layers"] = parts


def check_likelihood(p: Distribution, x: Tensor, samples: int) -> None:
    """Refuse a likelihood whose shapes do not fit the data."""
    if not isinstance(p, Distribution):
        raise UnsupportedError(describe_non_distribution("likelihood", p))
    if p.event_shape != x.shape[1:] or p.batch_shape != (samples, len(x)):
        raise ShapeError(
            f"the likelihood is over events of shape {tuple(p.event_shape)} with batch shape "
            f"{tuple(p.batch_shape)}, but the data has events of shape {tuple(x.shape[1:])}, and "
            f"the expected batch shape is {(samples, len(x))}: samples, examples "
            "(torch.distributions.Independent makes batch dimensions part of the event)"
        )
    if is_point(p):
        raise UnsupportedError(
            f"the likelihood's {type(p).__name__} has all its probability at single points, so "
            "data have no probability under it; use one that gives all data a probability or a "
            "density, such as lb.Gaussian"
        )


def refuse_learning_from_scores(likelihood: nn.Module, model: str) -> None:
    """Refuse a likelihood that learns from what it scores, in a model that scores all latents.

    Args:
        likelihood: of a model that scores all values of its latents.
        model: the name of the model's class.

    Raises:
        UnsupportedError: naming the model and the remedy.
    """
    if torch.compiler.is_compiling():
        return  # the first steps of a training run are not compiled, and have checked this
    if any(getattr(module, "learns_from_scores", False) for module in likelihood.modules()):
        raise UnsupportedError(
            f"{model}: scale='optimal' is learned from the errors at draws from q, but this model "
            "scores all values of a latent, also improbable ones; use scale='shared'"
        )


def read_latents(z: Any, name: str = "latents") -> Tensor:
    """Read the latents of at least one example: a tensor, an array or a list.

    Raises:
        DataError: if they are not finite numbers, naming the row.
    """
    try:
        latents = z if isinstance(z, Tensor) else torch.from_numpy(np.array(z, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"decode: the {name} cannot be read as an array of numbers ({error}); give what encode "
            "returns"
        ) from None
    if not latents.numel():
        raise DataError(f"decode: the {name} of shape {tuple(latents.shape)} are empty")
    wrong = ~latents.isfinite()
    if bool(wrong.any()):
        row = f"row {int(wrong.nonzero()[0][0])} of " if latents.dim() else ""
        raise DataError(
            f"decode: {row}the {name} has the value {latents[wrong][0].item()}; give finite numbers"
        )
    return latents


def check_latents(z: Any, prior: nn.Module) -> Tensor:
    """Check that latents are ``[N, *units]``, as the prior's are, and read them.

    A prior that needs fields is not asked, because they may not be known.

    Raises:
        DataError: see :func:`read_latents`.
        ShapeError: saying what is expected.
    """
    latents = read_latents(z)
    if getattr(prior, "needs", ()):
        return latents
    units = prior().event_shape
    if latents.dim() > len(units) and latents.shape[latents.dim() - len(units) :] == units:
        return latents
    advice = ""
    if latents.shape == units:
        advice = "; these are the latents of one example: pass z[None]"
    expected = ", ".join(["N", *map(str, units)])
    raise ShapeError(
        f"decode: the latents have the shape {tuple(latents.shape)}, expected [{expected}] for N "
        f"examples{advice}"
    )
