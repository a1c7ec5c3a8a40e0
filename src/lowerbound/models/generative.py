"""The base of models with a prior, a posterior and a likelihood, which may depend on fields."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals import Conditional
from lowerbound.conditionals.base import check_fields, list_field_names, select_fields
from lowerbound.data.anndata import answer_like
from lowerbound.data.examples import Examples
from lowerbound.data.fields import convert_floating_fields, read_field
from lowerbound.data.preprocessing import find_category_codes
from lowerbound.distributions import choose_point
from lowerbound.errors import DataError
from lowerbound.models.base import Model
from lowerbound.models.conditioned import ConditionedParts
from lowerbound.models.support import check_support
from lowerbound.networks import check_module
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import (
    choose_batch_size,
    count_values_per_pair,
    explain_full_memory,
    measure_growth,
)
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

_EXAMPLES = {
    "prior": "lb.StandardNormal(...)",
    "posterior": "lb.Gaussian(lb.mlp(...))",
    "likelihood": "lb.Gaussian(lb.mlp(...))",
}
"""A module that could be each part of a model."""


class GenerativeModel(Model):
    """A model of data x with latents z: a prior p(z), a posterior q(z|x), and p(x|z).

    :class:`lowerbound.LatentModel` has one group of latents, and :class:`lowerbound.LayeredModel`
    has several. Evaluations that need the distributions themselves get them from
    :meth:`conditioned`.

    To write your own: assign p(x|...) to ``self.likelihood``, name all parts in
    :meth:`list_parts`, and implement the three distributions and :meth:`Model.draw`.
    """

    likelihood: nn.Module

    def __setattr__(self, name: str, value: Any) -> None:
        # A plain function may take the place of a module, and a subclass may set a part later.
        is_function = callable(value) and not isinstance(value, type)
        comes_later = value is None and not type(self).__module__.startswith("lowerbound.")
        if name in _EXAMPLES and not is_function and not comes_later:
            check_module(f"{type(self).__name__}: {name}", value, _EXAMPLES[name])
        super().__setattr__(name, value)

    @abstractmethod
    def list_parts(self) -> Mapping[str, nn.Module]:
        """The parts of the model by their roles, such as ``"prior"``, for fields and messages."""

    @abstractmethod
    def posterior_given(self, x: Tensor, given: Mapping[str, Tensor]) -> Distribution:
        """q(z|x) for the fields that it needs, batch shape ``[B]``."""

    @abstractmethod
    def prior_given(self, given: Mapping[str, Tensor]) -> Distribution:
        """p(z) for the fields that it needs: one distribution, or one for each example."""

    @abstractmethod
    def likelihood_given(self, given: Mapping[str, Tensor]) -> Callable[[Tensor], Distribution]:
        """p(x|z) as a function of z, ``[K, B, *latent]``, for the fields that it needs."""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the fields that a part of the model needs."""
        return list_field_names("needs", *self.list_parts().values())

    @property
    def accepts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of further fields that a part uses if the examples have them."""
        names = list_field_names("accepts", *self.list_parts().values())
        return tuple(name for name in names if name not in self.needs)

    def conditioned(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> ConditionedParts:
        """q(z|x), p(z), and p(x|z) as a function of z, for a batch.

        All code that uses the parts of a model calls this method, so that each part receives the
        fields that it needs.

        Args:
            x: data, ``[B, *event]``.
            given: the fields that the model needs, ``[B, ...]`` each by name.

        Raises:
            DataError: if a field that a part needs is missing, by name.
            UnsupportedError: if the posterior does not return a distribution.

        Example:
            >>> import lowerbound as lb
            >>> vae = lb.LatentModel(
            ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Bernoulli(lb.mlp(2, 6))
            ... )
            >>> parts = vae.conditioned(torch.zeros(5, 6))
            >>> parts.q.batch_shape, parts.likelihood(torch.zeros(3, 5, 2)).batch_shape
            (torch.Size([5]), torch.Size([3, 5]))
        """
        given = given or {}
        q = self.posterior_given(x, given)
        return ConditionedParts(q, self.prior_given(given), self.likelihood_given(given))

    def unnormalized_parts(self) -> tuple[str, ...]:
        """The parts that declare ``normalized = False``, by role and class.

        Example:
            >>> import lowerbound as lb
            >>> class Similarity(lb.Gaussian):
            ...     normalized = False
            >>> vae = lb.LatentModel(
            ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), Similarity(lb.mlp(2, 12))
            ... )
            >>> vae.unnormalized_parts(), lb.ELBO().label(vae)
            (('likelihood (Similarity)',), 'score')
        """
        return tuple(
            f"{role} ({type(part).__name__})"
            for role, part in self.list_parts().items()
            if any(not getattr(module, "normalized", True) for module in _list_conditionals(part))
        )

    def start_from(self, x: Tensor, **given: Any) -> None:
        """Start likelihood and prior from some data, see :class:`lowerbound.Conditional`."""
        prior = self.list_parts().get("prior")
        if isinstance(prior, Conditional):
            prior.start_prior_from(x)
        if isinstance(self.likelihood, Conditional):
            self.likelihood.start_from(x, **select_fields(self.likelihood, given))

    def check_support(self, examples: Examples) -> None:
        """Check that the data lie in the likelihood's support, and that parts can use the fields.

        Raises:
            DataError: saying where they do not.
        """
        check_support(self, self.likelihood, examples)

    @torch.no_grad()
    def sample(
        self, count: int, *, mean: bool = False, seed: int | None = None, **given: Any
    ) -> Tensor:
        """Draws of data: z from the prior, then x from p(x|z).

        Args:
            count: the number of draws.
            mean: give the mean of p(x|z) instead of a draw from it, as pictures in papers do.
            seed: makes the draws reproducible, and leaves torch's own generator as it was.
            given: the fields that prior and likelihood need by name: one value for all draws, or
                one for each. A category may be given as text, ``label="3"``, if the model's
                :attr:`~lowerbound.Model.preprocessing` has its name.

        Returns:
            ``[count, *event]``.

        Raises:
            DataError: if a field that is needed is missing, or has another length than ``count``.
            SettingsError: if there is not enough memory.
        """
        count = check_whole_number("sample: count", count)
        if seed is not None:
            seed = derived_seed(check_seed("sample", seed), "sample")
        with (
            evaluating(self),
            seeded(seed, get_device(self)),
            explain_full_memory("sample", count),
        ):
            fields = self.as_fields(given, count)
            prior = self.prior_given(fields)
            size = Size((count,))
            if prior.batch_shape:  # one prior for each draw
                size = Size()
            return self._decode_latents(prior.sample(size), fields, mean)

    @abstractmethod
    def decode(self, z: Any, **given: Any) -> Tensor:
        """The mean of p(x|z), ``[N, *event]``, for latents such as ``encode`` gives."""

    @torch.no_grad()
    def reconstruct(self, data: Any, **given: Any) -> Tensor:
        """The mean of p(x|z) at the natural point of q(z|x), ``[N, *event]``.

        It is the same at every call.

        Args:
            data: examples, or raw data as for :meth:`~lowerbound.Model.examples`: ``[N, *event]``.
                For AnnData the result is an array.
            given: fields in place of the examples' own for p(x|z), which show each example as
                it would be with another label or covariate: one value for all, or one for each.

        Raises:
            DataError: if a field that is needed is missing, or has another length than the data.
        """
        examples = self.examples(data)
        means = self.decode_examples(self.encode(examples), examples, **given)
        return cast(Tensor, answer_like(data, means))

    def decode_examples(self, z: Any, examples: Examples, /, **given: Any) -> Tensor:
        """The mean of p(x|z), ``[N, *event]``, for latents of some examples.

        Args:
            z: latents of each example, such as :meth:`~lowerbound.Model.encode` gives.
            examples: p(x|z) gets their fields.
            given: fields in place of the examples' own, as for :meth:`reconstruct`.

        Raises:
            DataError: if a field that is needed is missing, or has another length than the data.
        """
        own = [name for name in list_field_names("needs", self.likelihood) if name not in given]
        fields = examples.given(torch.arange(len(examples)), own)
        return self.decode(z, **fields, **given)

    def as_fields(self, given: Mapping[str, Any], count: int) -> dict[str, Tensor]:
        """Values of fields by name as tensors ``[count, ...]`` on the model's device.

        Raises:
            DataError: for a name or a category that the model does not know, or another number of
                values.
        """
        known = (*self.needs, *self.accepts)
        fields: dict[str, Tensor] = {}
        for name, value in given.items():
            if name not in known:
                raise DataError(
                    f"the model does not need {name!r}; it needs {', '.join(known) or 'no fields'}"
                )
            codes = find_category_codes(value, name, self.preprocessing)
            field = read_field(codes, name)[0].to(get_device(self))
            if not field.dim():
                field = field.expand(count)
            if len(field) != count:
                raise DataError(
                    f"{name} has {len(field)} values for {count} examples; give one value, or one "
                    "for each"
                )
            fields[name] = field
        check_fields(self, fields, torch.arange(count), type(self).__name__)
        return convert_floating_fields(fields, get_dtype(self))

    def _decode_latents(self, z: Tensor, fields: Mapping[str, Tensor], mean: bool) -> Tensor:
        """Decode latents ``[N, *units]`` to means of p(x|z) or draws, in small batches."""

        def likelihood_of(part: slice) -> Distribution:
            some = {name: value[part] for name, value in fields.items()}
            return self.likelihood_given(some)(z[None, part])

        return decode_in_batches(likelihood_of, len(z), z.device, mean=mean)


def decode_in_batches(
    likelihood_of: Callable[[slice], Distribution], count: int, device: torch.device, *, mean: bool
) -> Tensor:
    """Compute means of p(x|z) or draws, ``[count, *event]``, in batches that fit in memory.

    Args:
        likelihood_of: p(x|z) of some of the examples, batch shape ``[1, B]``.
        count: the number of examples.
        device: the device of the model.
        mean: whether to compute means rather than draws.
    """

    def try_some(some: int) -> None:
        p = likelihood_of(slice(0, some))
        if mean:
            choose_point(p, device)

    event_size = math.prod(likelihood_of(slice(0, 1)).event_shape)
    size = choose_batch_size(count_values_per_pair(event_size, measure_growth(try_some)))
    decoded = []
    for start in range(0, count, size):
        p = likelihood_of(slice(start, start + size))
        x = choose_point(p, device) if mean else p.sample()
        decoded.append(x[0])
    return torch.cat(decoded)


def _list_conditionals(part: nn.Module) -> list[nn.Module]:
    """List a part of a model, and the conditionals that it contains."""
    if not isinstance(part, nn.Module):  # a plain function, which a subclass may have
        return []
    return [part, *(module for module in part.modules() if isinstance(module, Conditional))]
