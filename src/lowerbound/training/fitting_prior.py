"""Fits a prior to the latents of a trained model, which otherwise does not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import list_field_names
from lowerbound.data.examples import Examples
from lowerbound.distributions import draw_samples
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.evaluation.checks import check_model
from lowerbound.evaluation.estimate import evaluate
from lowerbound.models import Draw, Gradient, LatentModel, Model
from lowerbound.models.checks import check_posterior
from lowerbound.models.groups import draw_with_log_q
from lowerbound.models.passes import iterate_batches
from lowerbound.models.sampling import score_by_prior
from lowerbound.objectives import ELBO
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.training.fitting import fit
from lowerbound.training.preparing import check_training

# The largest number of examples whose latents a prior can start from.
_MOST_EXAMPLES = 20_000


def fit_prior(model: LatentModel, prior: nn.Module, data: Any, **settings: Any) -> LatentModel:
    r"""Fit a prior to the aggregate posterior of a trained model.

    .. math:: \max_\lambda \ \frac1N \sum_{n=1}^N \mathbb E_{q(z \mid x_n)} [\log p_\lambda(z)]

    This is the part of the ELBO that depends on the prior, so the ELBO of the training data rises
    by as much. Encoder and decoder do not change, and the latents are drawn anew in every epoch. A
    :class:`lowerbound.MixturePrior` starts by expectation maximisation. With a
    :class:`lowerbound.Point` as the posterior this is the density estimation after training of a
    regularised auto-encoder (Ghosh et al. 2020).

    Args:
        model: a trained model, which is not changed.
        prior: the new prior, such as ``lb.MixturePrior(2, components=10)``, ``lb.Flow("nsf", 2)``
            or a prior within :class:`lowerbound.Given`. It is copied, and not changed.
        data: the training data, as for :func:`lowerbound.fit`.
        settings: of :func:`lowerbound.fit`, such as ``epochs``, ``learning_rate`` and ``progress``,
            without ``directory`` and ``resume``. To keep the result, use :func:`lowerbound.save`.

    Returns:
        A copy of the model with the fitted prior.

    Raises:
        SettingsError: if the prior has no parameters, if the ELBO of the training data fell, or for
            the settings of a run directory.
        ShapeError, UnsupportedError: if the prior does not fit the posterior.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits").train
        >>> vae = lb.LatentModel(
        ...     prior=lb.StandardNormal(2),
        ...     posterior=lb.Gaussian(lb.mlp((1, 8, 8), 32, 4)),
        ...     likelihood=lb.Gaussian(lb.mlp(2, 32, (2, 8, 8))),
        ... )
        >>> run = lb.fit(vae, lb.ELBO(), digits, epochs=2, progress=False)
        >>> better = lb.fit_prior(
        ...     vae, lb.MixturePrior(2, components=10), digits, epochs=2, progress=False
        ... )
        >>> elbo = lb.ELBO(kl="sampled")
        >>> lb.evaluate(better, elbo, digits).mean > lb.evaluate(vae, elbo, digits).mean
        True
    """
    check_model("fit_prior", model, LatentModel, "it replaces the prior of such a model")
    if not isinstance(prior, nn.Module):
        raise UnsupportedError(
            f"fit_prior: the prior is a {type(prior).__name__}; it must be a module whose forward "
            "returns a distribution, such as lb.MixturePrior(2, components=10)"
        )
    for name in ("directory", "resume"):
        if settings.get(name):
            raise SettingsError(
                f"fit_prior: it takes no {name}, because a run holds a whole model; save the "
                "result: lb.save(model, path)"
            )
    examples = model.examples(data, name="training data")
    copies: dict[int, Any] = {}  # a prior may share the encoder
    fitted = copy.deepcopy(model, copies)
    fitted.prior = copy.deepcopy(prior, copies)
    rates, objective = _Rates(fitted), ELBO(kl="sampled")
    with _training_only_the_prior(fitted):
        check_training(rates, objective, examples, settings)
        before = _average_rate(_Rates(model), examples)
        _start(fitted, examples, derived_seed(settings.get("seed", 0), "fit_prior"))
        fit(rates, objective, examples, **settings)
    after = _average_rate(rates, examples)
    if not after <= before:
        raise SettingsError(
            f"fit_prior: with the fitted {type(prior).__name__} the rate of the training data is "
            f"{after:.2f} nats, and with the model's own prior {before:.2f}, so the ELBO would "
            "fall. Use more epochs or another learning rate. The model is unchanged"
        )
    fitted.train(model.training)
    return fitted


class _Rates(Model):
    """The part of a model's bound that depends on its prior: log p(z) - log q(z|x).

    Args:
        whole: the model, whose likelihood is not used.
    """

    def __init__(self, whole: LatentModel) -> None:
        super().__init__()
        self.whole = whole

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the fields that prior or posterior need."""
        return list_field_names("needs", self.whole.prior, self.whole.posterior)

    @property
    def accepts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of further fields that prior or posterior use if the examples have them."""
        names = list_field_names("accepts", self.whole.prior, self.whole.posterior)
        return tuple(name for name in names if name not in self.needs)

    def train(self, mode: bool = True) -> Self:
        """Switch the prior to training, but not the posterior, which does not change."""
        super().train(mode)
        self.whole.posterior.eval()
        return self

    def examples(self, data: Any, *, name: str = "data") -> Examples:
        """The examples that the model itself made of the data."""
        return self.whole.examples(data, name=name)

    def draw(
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise", **given: Any
    ) -> Draw:
        """Draws from q, and a log likelihood of 0."""
        with torch.no_grad():
            q = self.whole.posterior_given(x, given)
            # Together, because some flows score a given point far more slowly than their own draws.
            z, posterior_term = draw_with_log_q(q, samples, gradient)
        prior = self.whole.prior_given(given)
        check_posterior(q, prior, x)
        return Draw(
            z=z,
            likelihood_term=lambda: z.new_zeros(z.shape[:2]),
            prior_term=lambda: score_by_prior(prior, q, z),
            posterior_term=lambda: posterior_term().detach(),
            q=q,
            prior=prior,
        )


def _start(fitted: LatentModel, examples: Examples, seed: int) -> None:
    """Let the prior start from the latents of the examples, if it can."""
    start = getattr(fitted.prior, "start_from_latents", None)
    if start is not None:
        with seeded(seed, get_device(fitted)):
            start(_draw_latents(fitted, examples, seed))


def _average_rate(rates: _Rates, examples: Examples) -> float:
    return -evaluate(rates, ELBO(kl="sampled"), examples).mean


@contextmanager
def _training_only_the_prior(model: LatentModel) -> Iterator[None]:
    """Within the block, only parameters that belong to the prior alone require gradients.

    Raises:
        SettingsError: if there are none.
    """
    others = [*model.posterior.parameters(), *model.likelihood.parameters()]
    own = {id(parameter) for parameter in others}
    if all(id(each) in own or not each.requires_grad for each in model.prior.parameters()):
        raise SettingsError(
            f"fit_prior: a {type(model.prior).__name__} has no parameters of its own to fit; use "
            "lb.MixturePrior, lb.Flow or another prior with parameters"
        )
    trained = [parameter for parameter in others if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@torch.no_grad()
def _draw_latents(model: LatentModel, examples: Examples, seed: int) -> Tensor:
    """Draw the latents of evenly spaced examples, ``[N, *event]``."""
    some = examples.spread(min(len(examples), _MOST_EXAMPLES))
    with evaluating(model):
        return torch.cat(
            [
                draw_samples(model.posterior_given(x, given), 1)[0]
                for _, x, given in iterate_batches(some, model, seed=seed, part=model.posterior)
            ]
        )
