"""Regularised auto-encoders: small latents and a smooth decoder instead of a rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import UnsupportedError
from lowerbound.models import Draw
from lowerbound.objectives.penalised import KL, PenalisedReconstruction
from lowerbound.objectives.schedules import Schedule, check_number, get_value, is_always


@describable
@dataclass(frozen=True)
class RAE(PenalisedReconstruction):
    r"""The regularised auto-encoder (Ghosh, Sajjadi, Vergari, Black & Schölkopf 2020); a score.

    Training maximises

    .. math:: \log p(x \mid z) - \frac\beta2 \|z\|^2
              - \lambda\, \Big\| \frac{\partial\, \mathbb E[x \mid z]}{\partial z} \Big\|_F^2,
              \qquad z = f(x)

    where the posterior is usually a :class:`lowerbound.Point`. The first penalty keeps the latents
    near 0, and the second makes the decoder smooth. Weight decay can replace the second:
    ``lb.fit(..., optimizer="adamw", weight_decay=...)``.

    The value of the first two terms is reported as a score. The last one regularises the decoder,
    as a weight decay does, and is not part of the score. It is estimated without bias from the
    gradient of one random projection of the mean of p(x|z), which needs a second backward pass in
    each training step. The latents do not follow the prior of the model. For samples, fit a prior
    to them after training (:func:`lowerbound.fit_prior`), as the paper does.

    Args:
        weight: :math:`\beta`, in nats, or a schedule. With 1, the penalty is that of a standard
            Gaussian prior, up to a constant.
        gradient_penalty: :math:`\lambda`, or a schedule.
        samples: L, the draws for each example; those of a point are all the same.
        kl: how the logged rate is computed, as in :class:`lowerbound.ELBO`.

    Raises:
        SettingsError: for settings that are unknown or out of range.
        UnsupportedError: on use, if the gradient penalty needs a mean of p(x|z) with a
            gradient at z, and there is none.

    Example:
        >>> import torch, lowerbound as lb
        >>> model = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Point(lb.mlp(6, 2)), lb.Gaussian(lb.mlp(2, 6), scale=0.1)
        ... )
        >>> objective = RAE(weight=0.1, gradient_penalty=0.01)
        >>> run = lb.fit(model, objective, torch.rand(50, 6), epochs=1, progress=False)
        >>> list(run.history[0]["train"])
        ['bound', 'rate', 'distortion', 'squared norm']
    """

    weight: float | Schedule = 1.0
    gradient_penalty: float | Schedule = 0.0
    samples: int = 1
    kl: KL = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("RAE: weight", self.weight, 0)
        check_number("RAE: gradient_penalty", self.gradient_penalty, 0)

    def penalty(self, draw: Draw) -> Tensor:
        """``weight`` times half of the squared norm, ``[B]``."""
        return 0.5 * get_value(self.weight) * _compute_squared_norm(draw)

    def surrogate(self, draw: Draw) -> Tensor:
        """The score less the gradient penalty, ``[B]``."""
        weight = get_value(self.gradient_penalty)
        if is_always(weight, 0.0):
            return self.bound(draw)
        return self.bound(draw) - weight * estimate_squared_jacobian(draw)

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The score with its terms, and the squared norm of z, ``[B]`` each."""
        return super().terms(draw) | {"squared norm": _compute_squared_norm(draw)}


def _compute_squared_norm(draw: Draw) -> Tensor:
    return draw.z.flatten(2).square().sum(2).mean(0)


def estimate_squared_jacobian(draw: Draw) -> Tensor:
    r"""Estimate the squared norm of the Jacobian of E[x given z], ``[B]``, without bias.

    .. math:: \mathbb E_{v \sim N(0, I)} \| J^\top v \|^2 = \| J \|_F^2

    (Hutchinson 1990), with one v for each draw.

    Raises:
        UnsupportedError: if p(x|z) has no mean with a gradient at z.
    """
    if draw.p is None:
        raise UnsupportedError(
            "RAE: the gradient penalty needs p(x|z), which the draws of this model do not "
            "have; give Draw p, or use gradient_penalty=0"
        )
    try:
        mean = draw.p.mean
    except NotImplementedError:
        raise UnsupportedError(
            f"RAE: the mean of a {type(draw.p).__name__} is not known in closed form, which the "
            "gradient penalty needs; use gradient_penalty=0"
        ) from None
    groups = [latent.z for latent in draw.groups.values()] or [draw.z]
    on_path = [z for z in groups if z.requires_grad]
    if not mean.requires_grad or not on_path:
        raise UnsupportedError(
            "RAE: the gradient penalty needs a gradient at z, but the encoder is frozen; use "
            "gradient_penalty=0"
        )
    projected = (mean * torch.randn_like(mean)).sum()
    gradients = torch.autograd.grad(projected, on_path, create_graph=True, allow_unused=True)
    norms = [g.flatten(2).square().sum(2).mean(0) for g in gradients if g is not None]
    return sum(norms[1:], norms[0])
