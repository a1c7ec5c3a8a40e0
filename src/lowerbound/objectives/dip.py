"""The ELBO with a penalty on the covariance of the latents: DIP-VAE I and II."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.describe import describable
from lowerbound.distributions import check_independent_entries
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import Draw
from lowerbound.objectives.penalised import KL, PenalisedELBO, find_posteriors
from lowerbound.objectives.schedules import Schedule, check_number, get_value


@describable
@dataclass(frozen=True)
class DIPVAE(PenalisedELBO):
    r"""DIP-VAE I and II (Kumar, Sattigeri & Balakrishnan 2018): latents without correlation.

    Training maximises the ELBO less a penalty, in nats per example,

    .. math:: \lambda_{od} \sum_{i \ne j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2

    With version I, C is the covariance of the means of q(z|x) over the data. With version II
    it is the covariance of z itself under the aggregate posterior, which also contains the mean of
    the covariances of q(z|x).

    The reported bound is still the ELBO, and the penalty is logged as ``covariance penalty``.
    C is estimated without bias from the examples of a batch, so the penalty depends on all of them.
    It has the same value for each, and is larger in a small batch, where C varies by chance. For a
    batch of one example the covariance of means counts as 0.

    Args:
        version: ``"I"`` or ``"II"``.
        off_diagonal: :math:`\lambda_{od}`, or a schedule.
        diagonal: :math:`\lambda_d`, or a schedule. The paper uses ten times ``off_diagonal`` for
            version I, and ``off_diagonal`` for version II.
        samples: L, the draws for each example.
        kl: as in :class:`lowerbound.ELBO`.

    Raises:
        SettingsError: for settings that are unknown or out of range.
        UnsupportedError: on use, if the mean or the covariance of q is not known in closed form, or
            if q depends on other latents.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> run = lb.fit(vae, DIPVAE("I"), torch.rand(50, 6), epochs=1, progress=False)
        >>> list(run.history[0]["train"])
        ['bound', 'rate', 'distortion', 'covariance penalty']
    """

    penalises_draws: ClassVar[bool] = False

    version: Literal["I", "II"] = "II"
    off_diagonal: float | Schedule = 10.0
    diagonal: float | Schedule = 10.0
    samples: int = 1
    kl: KL = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in ("I", "II"):
            raise SettingsError(f"DIPVAE: version={self.version!r} is unknown; choose 'I' or 'II'")
        check_number("DIPVAE: off_diagonal", self.off_diagonal, 0)
        check_number("DIPVAE: diagonal", self.diagonal, 0)

    def penalty(self, draw: Draw) -> Tensor:
        """The penalty on the covariance, ``[B]``: the same for each example."""
        covariance = self.covariance(draw)
        variances = covariance.diagonal()
        off_diagonal = covariance.square().sum() - variances.square().sum()
        penalty = get_value(self.off_diagonal) * off_diagonal
        penalty = penalty + get_value(self.diagonal) * (variances - 1).square().sum()
        return penalty.expand(draw.z.shape[1])

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The terms of the ELBO, and the penalty, ``[B]`` each."""
        return super().terms(draw) | {"covariance penalty": self.penalty(draw)}

    def covariance(self, draw: Draw) -> Tensor:
        """C, ``[J, J]``, for the units of all groups of latents.

        Raises:
            UnsupportedError: see the class.
        """
        posteriors = [latent.q for latent in find_posteriors(draw, "DIPVAE").values()]
        means = torch.cat([_get_mean(q).flatten(1) for q in posteriors], 1)
        centred = means - means.mean(0)
        covariance: Tensor = centred.T @ centred / max(len(means) - 1, 1)
        if self.version == "I":
            return covariance
        own: Tensor = torch.block_diag(*[_average_covariance(q) for q in posteriors])
        return covariance + own


def _get_mean(q: Distribution) -> Tensor:
    try:
        return q.mean
    except NotImplementedError:
        raise UnsupportedError(
            f"DIPVAE: the mean of a {type(q).__name__} is not known in closed form; use a "
            "posterior whose mean is known, such as lb.Gaussian"
        ) from None


def _average_covariance(q: Distribution) -> Tensor:
    """Average the covariances of the examples' posteriors, ``[J, J]``."""
    covariance: Tensor | None = getattr(q, "covariance_matrix", None)
    if covariance is not None:
        return covariance.expand(*q.batch_shape, *covariance.shape[-2:]).mean(0)
    check_independent_entries(q)
    return q.variance.flatten(1).mean(0).diag()
