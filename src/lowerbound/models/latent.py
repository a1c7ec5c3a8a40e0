"""The latent-variable model with an amortised posterior: the variational auto-encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals import Conditional
from lowerbound.conditionals.base import check_fields, list_field_names, select_fields
from lowerbound.data.examples import Examples
from lowerbound.data.fields import convert_floating_fields, read_field
from lowerbound.data.preprocessing import find_category_codes
from lowerbound.describe import describable
from lowerbound.distributions import choose_point
from lowerbound.errors import DataError, UnsupportedError
from lowerbound.models import checks
from lowerbound.models.base import Model
from lowerbound.models.conditioned import ConditionedParts
from lowerbound.models.draw import Draw
from lowerbound.models.passes import iterate_batches
from lowerbound.models.sampling import Gradient, choose_sampler, score_latents, score_through_z
from lowerbound.models.standardizing import standardize_parts
from lowerbound.models.support import check_support
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import choose_batch_size, count_values_per_pair, measure_growth
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number


@describable
class LatentModel(Model):
    r"""The latent-variable model :math:`p(x, z) = p(z)\, p(x \mid z)` with posterior
    :math:`q(z \mid x)`.

    The posterior is amortised: a variational auto-encoder (Kingma & Welling 2013). Each part is a
    module whose ``forward`` returns a ``torch.distributions.Distribution``. Any three parts whose
    shapes fit make a model. A part may depend on fields of the examples, such as labels, which it
    names in its ``needs``; :class:`lowerbound.Given` adds a field to a part. The model is then
    conditional, as in the second example.

    Args:
        prior: p(z); its only inputs are the fields that it needs, if any.
        posterior: q(z given x); its input is ``[B, *event]``.
        likelihood: p(x given z); its input is ``[K, B, *units]``.

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     prior=lb.StandardNormal(2),
        ...     posterior=lb.Gaussian(lb.mlp((1, 8, 8), 32, 4)),
        ...     likelihood=lb.Bernoulli(lb.mlp(2, 32, (1, 8, 8))),
        ... )
        >>> vae.draw(torch.zeros(5, 1, 8, 8), samples=3).log_w.shape
        torch.Size([3, 5])
        >>> vae.sample(4).shape, vae.encode(torch.zeros(5, 1, 8, 8)).shape
        (torch.Size([4, 1, 8, 8]), torch.Size([5, 2]))

        >>> digits = lb.load_data("digits").test
        >>> conditional = lb.LatentModel(
        ...     prior=lb.StandardNormal(2),
        ...     posterior=lb.Given(lb.Gaussian(lb.mlp((11, 8, 8), 32, 4)), "label", categories=10),
        ...     likelihood=lb.Given(lb.Gaussian(lb.mlp(12, 32, (2, 8, 8))), "label", categories=10),
        ... )
        >>> conditional.needs, conditional.sample(4, label=7).shape
        (('label',), torch.Size([4, 1, 8, 8]))
        >>> conditional.reconstruct(digits, label=3).shape  # each digit as if it were a 3
        torch.Size([180, 1, 8, 8])
    """

    def __init__(self, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the fields that prior, posterior or likelihood need."""
        return list_field_names("needs", self.prior, self.posterior, self.likelihood)

    @property
    def accepts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of further fields that a part uses if the examples have them."""
        names = list_field_names("accepts", self.prior, self.posterior, self.likelihood)
        return tuple(name for name in names if name not in self.needs)

    def conditioned(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> ConditionedParts:
        """q(z given x), p(z), and p(x given z) as a function of z, for a batch.

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

    def posterior_given(self, x: Tensor, given: Mapping[str, Tensor]) -> Distribution:
        """q(z given x) for the fields that it needs, or an error if it is not a distribution."""
        q = self.posterior(x, **select_fields(self.posterior, given))
        if not isinstance(q, Distribution):
            raise UnsupportedError(checks.describe_non_distribution("posterior", q))
        return q

    def prior_given(self, given: Mapping[str, Tensor]) -> Distribution:
        """p(z) for the fields that it needs: one distribution, or one for each example."""
        prior: Distribution = self.prior(**select_fields(self.prior, given))
        return prior

    def likelihood_given(self, given: Mapping[str, Tensor]) -> Callable[[Tensor], Distribution]:
        """p(x given z) as a function of z, for the fields that it needs."""
        fields = select_fields(self.likelihood, given)
        if not fields:
            return self.likelihood
        return partial(self.likelihood, **fields)

    def start_from(self, x: Tensor, **given: Any) -> None:
        """Start likelihood and prior from some data, see :class:`lowerbound.Conditional`."""
        if isinstance(self.prior, Conditional):
            self.prior.start_prior_from(x)
        if isinstance(self.likelihood, Conditional):
            self.likelihood.start_from(x, **select_fields(self.likelihood, given))

    def standardize(self, x: Tensor, **given: Any) -> None:
        """Wrap posterior and likelihood so that both see standardised data.

        See :class:`lowerbound.conditionals.Standardized`. A model that is standardised stays as it
        is.
        """
        standardize_parts(self, x, given)

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
        roles = {"prior": self.prior, "posterior": self.posterior, "likelihood": self.likelihood}
        return tuple(
            f"{role} ({type(part).__name__})"
            for role, part in roles.items()
            if any(not getattr(module, "normalized", True) for module in _list_conditionals(part))
        )

    def draw(
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise", **given: Any
    ) -> Draw:
        """``samples`` draws from q(z given x), and the terms of the bound at them.

        Args:
            x: data, ``[B, *event]``.
            samples: K.
            gradient: how the posterior gets its gradient, see :class:`lowerbound.Objective`.
            given: the fields that the model needs, ``[B, ...]`` each.

        Raises:
            UnsupportedError: if the posterior does not allow that gradient, by name.
            ShapeError: if the parts do not fit each other or the data.
            DataError: if a field that the model needs is not given.
        """
        return self._draw_from(self.conditioned(x, given), x, samples, gradient, given)

    def draws(
        self,
        x: Tensor,
        sizes: Iterable[int],
        gradient: Gradient = "pathwise",
        *,
        score: Callable[..., Tensor] | None = None,
        **given: Any,
    ) -> Iterator[Draw]:
        """A :class:`Draw` from q(z given x) of one batch for each number of samples in ``sizes``.

        The posterior is computed once.

        Args:
            x: data, ``[B, *event]``.
            sizes: K of each.
            gradient: as for :meth:`draw`.
            score: computes log p(x given z), ``[K, B]``, of z, x and the fields that the likelihood
                takes, as :func:`~lowerbound.models.sampling.make_score` does. It may be compiled.
                The draws then have no ``p``.
            given: the fields that the model needs, ``[B, ...]`` each.
        """
        if type(self).draw is not LatentModel.draw:  # a subclass's own
            yield from super().draws(x, sizes, gradient, **given)
            return
        parts = self.conditioned(x, given)
        for samples in sizes:
            yield self._draw_from(parts, x, samples, gradient, given, score=score)

    def _draw_from(
        self,
        parts: ConditionedParts,
        x: Tensor,
        samples: int,
        gradient: Gradient,
        given: Mapping[str, Tensor],
        *,
        score: Callable[..., Tensor] | None = None,
    ) -> Draw:
        q, prior = parts.q, parts.prior
        with noise.for_foreign(samples, len(x)):
            z, posterior_term = choose_sampler(q, gradient)(q, Size((samples,)))
        checks.check_posterior(q, prior, x)
        p = None
        if score is None:
            p = parts.likelihood(z)
            checks.check_likelihood(p, x, samples)
            likelihood_term = partial(p.log_prob, x)
        else:
            likelihood_term = partial(score, z, x, **select_fields(self.likelihood, given))
        return Draw(
            z=z,
            likelihood_term=likelihood_term,
            prior_term=lambda: prior.log_prob(z),
            posterior_term=posterior_term,
            stopgrad_parameters_term=lambda: score_through_z(q, self.posterior, z),
            stopgrad_z_term=lambda: score_latents(q, z.detach()),
            q=q,
            prior=prior,
            p=p,
        )

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
        """Draws of data: z from the prior, then x from p(x given z).

        Args:
            count: the number of draws.
            mean: give the mean of p(x given z) instead of a draw from it, as pictures in papers do.
            seed: makes the draws reproducible, and leaves torch's own generator as it was.
            given: the fields that prior and likelihood need by name: one value for all draws, or
                one for each. A category may be given as text, ``label="3"``, if the model's
                :attr:`~lowerbound.Model.preprocessing` has its name.

        Returns:
            ``[count, *event]``.

        Raises:
            DataError: if a field that is needed is missing, or has another length than ``count``.
        """
        fields = self.as_fields(given, check_whole_number("sample: count", count))
        if seed is not None:
            seed = derived_seed(check_seed("sample", seed), "sample")
        with evaluating(self), seeded(seed, get_device(self)):
            prior = self.prior_given(fields)
            size = Size((count,))
            if prior.batch_shape:  # one prior for each draw
                size = Size()
            return self._decode_latents(prior.sample(size), fields, mean)

    @torch.no_grad()
    def decode(self, z: Tensor, **given: Any) -> Tensor:
        """The mean of p(x given z), ``[N, *event]``, for latents ``[N, *units]``.

        ``given`` holds the fields that the likelihood needs by name: one value for all latents, or
        one for each.
        """
        z = checks.check_latents(z, self.prior).to(get_device(self), get_dtype(self))
        with evaluating(self):
            return self._decode_latents(z, self.as_fields(given, len(z)), mean=True)

    @torch.no_grad()
    def encode(self, data: Any) -> Tensor:
        """The natural point of q(z given x), ``[N, *units]``: the same at every call.

        That is the mean, or for some distributions another point, see
        :func:`~lowerbound.distributions.natural_point`. A posterior without either in closed form,
        such as a flow, is averaged over 256 draws from a fixed seed.

        Args:
            data: examples, or raw data as for :meth:`~lowerbound.Model.examples`: ``[N, *event]``.
        """
        with evaluating(self):
            points = [
                choose_point(self.posterior_given(x, given), get_device(self))
                for _, x, given in iterate_batches(data, self, seed=0, part=self.posterior)
            ]
            return torch.cat(points)

    @torch.no_grad()
    def reconstruct(self, data: Any, **given: Any) -> Tensor:
        """The mean of p(x given z) at the natural point of q(z given x), ``[N, *event]``.

        It is the same at every call.

        Args:
            data: examples, or raw data as for :meth:`~lowerbound.Model.examples`: ``[N, *event]``.
            given: fields in place of the examples' own for p(x given z), which show each example as
                it would be with another label or covariate: one value for all, or one for each.

        Raises:
            DataError: if a field that is needed is missing, or has another length than the data.
        """
        examples = self.examples(data)
        own = [name for name in list_field_names("needs", self.likelihood) if name not in given]
        fields = examples.given(torch.arange(len(examples)), own)
        return self.decode(self.encode(examples), **fields, **given)

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
        """Decode latents ``[N, *units]`` to means of p(x given z) or draws, in small batches."""

        def likelihood_of(part: slice) -> Distribution:
            some = {name: value[part] for name, value in fields.items()}
            return self.likelihood_given(some)(z[None, part])

        def try_some(count: int) -> None:
            p = likelihood_of(slice(0, count))
            if mean:
                choose_point(p, z.device)

        event_size = math.prod(likelihood_of(slice(0, 1)).event_shape)
        size = choose_batch_size(count_values_per_pair(event_size, measure_growth(try_some)))
        decoded = []
        for start in range(0, len(z), size):
            p = likelihood_of(slice(start, start + size))
            x = choose_point(p, z.device) if mean else p.sample()
            decoded.append(x[0])
        return torch.cat(decoded)


def _list_conditionals(part: nn.Module) -> list[nn.Module]:
    """List a part of a model, and the conditionals that it contains."""
    if not isinstance(part, nn.Module):  # a plain function, which a subclass may have
        return []
    return [part, *(module for module in part.modules() if isinstance(module, Conditional))]
