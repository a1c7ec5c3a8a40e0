"""The latent-variable model with an amortised posterior: the variational auto-encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import select_fields
from lowerbound.data.anndata import answer_like
from lowerbound.describe import describable
from lowerbound.distributions import choose_point
from lowerbound.models import checks
from lowerbound.models.conditioned import ConditionedParts
from lowerbound.models.draw import Draw
from lowerbound.models.generative import GenerativeModel
from lowerbound.models.passes import iterate_batches
from lowerbound.models.sampling import (
    Gradient,
    choose_sampler,
    score_by_prior,
    score_latents,
    score_through_z,
)
from lowerbound.models.standardizing import standardize_parts
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.modes import evaluating


@describable
class LatentModel(GenerativeModel):
    r"""The latent-variable model :math:`p(x, z) = p(z)\, p(x \mid z)` with posterior
    :math:`q(z \mid x)`.

    The posterior is amortised: a variational auto-encoder (Kingma & Welling 2013). Each part is a
    module whose ``forward`` returns a ``torch.distributions.Distribution``. Any three parts whose
    shapes fit make a model. A part may depend on fields of the examples, such as labels, which it
    names in its ``needs``; :class:`lowerbound.Given` adds a field to a part. The model is then
    conditional, as in the second example.

    Args:
        prior: p(z); its only inputs are the fields that it needs, if any.
        posterior: q(z|x); its input is ``[B, *event]``.
        likelihood: p(x|z); its input is ``[K, B, *units]``.

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

    def list_parts(self) -> Mapping[str, nn.Module]:
        """Prior, posterior and likelihood by these names."""
        return {"prior": self.prior, "posterior": self.posterior, "likelihood": self.likelihood}

    def posterior_given(self, x: Tensor, given: Mapping[str, Tensor]) -> Distribution:
        """q(z|x) for the fields that it needs, or an error if it is not a distribution."""
        q: Distribution = self.posterior(x, **select_fields(self.posterior, given))
        checks.check_distribution("posterior", q)
        return q

    def prior_given(self, given: Mapping[str, Tensor]) -> Distribution:
        """p(z) for the fields that it needs: one distribution, or one for each example."""
        prior: Distribution = checks.call_prior(self.prior, select_fields(self.prior, given))
        return prior

    def likelihood_given(self, given: Mapping[str, Tensor]) -> Callable[[Tensor], Distribution]:
        """p(x|z) as a function of z, for the fields that it needs."""
        fields = select_fields(self.likelihood, given)
        if not fields:
            return self.likelihood
        return partial(self.likelihood, **fields)

    def standardize(self, x: Tensor, **given: Any) -> None:
        """Wrap posterior and likelihood so that both see standardised data.

        See :class:`lowerbound.conditionals.Standardized`. A model that is standardised stays as it
        is.
        """
        standardize_parts(self, self.posterior, x, given)

    def draw(
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise", **given: Any
    ) -> Draw:
        """``samples`` draws from q(z|x), and the terms of the bound at them.

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
        """A :class:`Draw` from q(z|x) of one batch for each number of samples in ``sizes``.

        The posterior is computed once.

        Args:
            x: data, ``[B, *event]``.
            sizes: K of each.
            gradient: as for :meth:`draw`.
            score: computes log p(x|z), ``[K, B]``, of z, x and the fields that the likelihood
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
        checks.check_posterior(q, prior, x)
        with noise.for_foreign(samples, len(x)):
            z, posterior_term = choose_sampler(q, gradient)(q, Size((samples,)))
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
            prior_term=lambda: score_by_prior(prior, q, z),
            posterior_term=posterior_term,
            stopgrad_parameters_term=lambda: score_through_z(q, self.posterior, z),
            stopgrad_z_term=lambda: score_latents(q, z.detach()),
            q=q,
            prior=prior,
            p=p,
        )

    @torch.no_grad()
    def decode(self, z: Any, **given: Any) -> Tensor:
        """The mean of p(x|z), ``[N, *event]``, for latents ``[N, *units]``, such as an array.

        ``given`` holds the fields that the likelihood needs by name: one value for all latents, or
        one for each.
        """
        z = checks.check_latents(z, self.prior).to(get_device(self), get_dtype(self))
        with evaluating(self):
            return self._decode_latents(z, self.as_fields(given, len(z)), mean=True)

    @torch.no_grad()
    def encode(self, data: Any) -> Tensor:
        """The natural point of q(z|x), ``[N, *units]``: the same at every call.

        That is the mean, or for some distributions another point, see
        :func:`~lowerbound.distributions.natural_point`. A posterior without either in closed form,
        such as a flow, is averaged over 256 draws from a fixed seed.

        Args:
            data: examples, or raw data as for :meth:`~lowerbound.Model.examples`: ``[N, *event]``.
                For AnnData the result is an array in the order of its rows, as for its ``obsm``.
        """
        examples = self.examples(data)
        with evaluating(self):
            points = [
                choose_point(self.posterior_given(x, given), get_device(self))
                for _, x, given in iterate_batches(examples, self, seed=0, part=self.posterior)
            ]
        return cast(Tensor, answer_like(data, torch.cat(points)))
