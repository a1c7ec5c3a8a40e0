"""The ELBO with a penalty on the total correlation of the latents, measured by a critic."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.distributions import find_entry_support, unwrap_independent
from lowerbound.errors import UnsupportedError
from lowerbound.models import Draw
from lowerbound.objectives.base import Player
from lowerbound.objectives.critics import check_critic, compute_cross_entropy, compute_logits
from lowerbound.objectives.penalised import KL, PenalisedELBO
from lowerbound.objectives.schedules import Schedule, check_number, get_value


@describable
@dataclass(frozen=True)
class FactorVAE(PenalisedELBO):
    r"""FactorVAE (Kim & Mnih 2018), in nats per example: independent latents, disentangled factors.

    Training maximises the ELBO less a penalty on the total correlation of the latents,

    .. math:: \mathcal L - \gamma\, \mathrm{KL}\Big(q(z) \,\Big\|\, \prod_j q(z_j)\Big), \qquad
              q(z) = \mathbb E_{p(x)}[q(z \mid x)],

    which is zero if the units of z are independent over all of the data. Its density ratio is
    estimated by a critic that distinguishes draws from q(z) from draws of the product. The latter
    are made by permuting each unit of z across the batch. The optimal critic gives :math:`\log q(z)
    - \sum_j \log q(z_j)`, so its mean is the total correlation.

    The bound that is reported stays the ELBO. The term ``total correlation`` is the critic's
    estimate, and ``critic loss`` is what the critic minimises: it is log 2 if the critic cannot
    distinguish the two. The loss depends on the other examples of a batch. A critic that learns too
    slowly lags behind the latents and underestimates their total correlation, so let it learn
    faster than the model.

    Args:
        critic: from all units of z, concatenated, ``[*leading, J]``, to a logit ``[*leading, 1]``.
            It is trained together with the model, on its own loss.
        gamma: the weight of the penalty, or a schedule.
        samples: L, the draws for each example.
        kl: as in :class:`lowerbound.ELBO`.
        learning_rate: the critic's learning rate; ``None`` for that of the model.

    Raises:
        SettingsError: for settings that are unknown or out of range.
        UnsupportedError: on use, if the support of q ties the entries of z to each other, as those
            of one-hot codes and of unit vectors are: their total correlation cannot vanish.
        ShapeError: on use, if the critic does not give one logit for each draw.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> objective = FactorVAE(lb.mlp(2, 32, 1), gamma=5.0, learning_rate=1e-4)
        >>> run = lb.fit(vae, objective, torch.rand(50, 6), epochs=1, progress=False)
        >>> list(run.history[0]["train"])
        ['bound', 'rate', 'distortion', 'total correlation', 'critic loss']
    """

    critic: nn.Module = field(compare=False, repr=False)
    gamma: float | Schedule = 10.0
    samples: int = 1
    kl: KL = "auto"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        check_critic("FactorVAE", self.critic, self.learning_rate)
        super().__post_init__()
        check_number("FactorVAE: gamma", self.gamma, 0)

    def penalty(self, draw: Draw) -> Tensor:
        """``gamma`` times the estimate of the total correlation, ``[B]``."""
        return get_value(self.gamma) * self.total_correlation(draw)

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The terms of the ELBO, and the estimate of the total correlation, ``[B]`` each."""
        return super().terms(draw) | {"total correlation": self.total_correlation(draw)}

    def total_correlation(self, draw: Draw) -> Tensor:
        """The critic's estimate of the log density ratio at the draws, ``[B]``, in nats.

        Its mean over examples estimates the total correlation.
        """
        _refuse_tied_entries(draw)
        return self._logits(draw.z).mean(0)

    def players(self) -> dict[str, Player]:
        """The critic."""
        return {"critic": Player(self.critic, self.learning_rate)}

    def losses(self, draw: Draw) -> dict[str, Tensor]:
        """The critic's cross-entropy between latents and permuted latents, ``[B]``, in nats."""
        z = draw.z.detach()
        return {"critic": compute_cross_entropy(self._logits(z), self._logits(permute_units(z)))}

    def _logits(self, z: Tensor) -> Tensor:
        return compute_logits("FactorVAE", self.critic, z)


def _refuse_tied_entries(draw: Draw) -> None:
    for group, latent in draw.latents.items():
        support = find_entry_support(latent.q)
        if support is not None and support.event_dim > 0:
            raise UnsupportedError(
                f"FactorVAE: the entries of {group!r} cannot be independent of each other, because "
                f"the support of a {type(unwrap_independent(latent.q)).__name__} is {support}; use "
                "a posterior whose entries are free, such as lb.Gaussian"
            )


def permute_units(z: Tensor) -> Tensor:
    """Each unit of latents ``[K, B, *units]`` permuted over the batch by itself, ``[K, B, J]``.

    Every unit keeps its values, and so its distribution; the dependence between units is lost.

    Example:
        >>> z = torch.arange(6.0).reshape(1, 3, 2)
        >>> permuted = permute_units(z)
        >>> torch.equal(permuted.sort(1).values, z)
        True
    """
    units = z.flatten(2)
    return units.gather(1, torch.rand_like(units).argsort(1))
