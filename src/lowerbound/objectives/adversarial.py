"""The adversarial auto-encoder: a critic compares the aggregate posterior with the prior."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.functional import softplus

from lowerbound.describe import describable
from lowerbound.models import Draw
from lowerbound.objectives.base import Player
from lowerbound.objectives.critics import check_critic, compute_cross_entropy, compute_logits
from lowerbound.objectives.penalised import KL, PenalisedReconstruction
from lowerbound.objectives.schedules import Schedule, check_number, get_value


@describable
@dataclass(frozen=True)
class AAE(PenalisedReconstruction):
    r"""The adversarial auto-encoder (Makhzani et al. 2015), or adversarial WAE; a score.

    Training maximises

    .. math:: \mathbb E_{q(z \mid x)}\big[\log p(x \mid z) + \lambda \log(1 - \sigma(f(z)))\big]

    The critic f is trained to give the log odds that z is from the aggregate posterior q(z) rather
    than from the prior, and the encoder is trained to deceive it. This is the WAE-GAN of Tolstikhin
    et al. 2018. The posterior may be a :class:`lowerbound.Point`.

    The value is reported as a score, because it does not bound log p(x), and the ELBO is logged
    beside it. The score also changes with the critic. The best critic is :math:`\log q(z) - \log
    p(z)`, so its mean at draws from q estimates KL(q(z) || p(z)), which is logged as ``aggregate
    KL``. ``critic loss`` is what the critic minimises: it is log 2 if the critic cannot distinguish
    the two.

    Args:
        critic: from all units of z, concatenated, ``[*leading, J]``, to a logit ``[*leading, 1]``.
            It is trained together with the model, on its own loss.
        weight: :math:`\lambda`, in nats, or a schedule.
        samples: L, the draws for each example.
        kl: how the logged rate is computed, as in :class:`lowerbound.ELBO`.
        learning_rate: the critic's learning rate; ``None`` for that of the model.

    Raises:
        SettingsError: for settings that are unknown or out of range.
        ShapeError: on use, if the critic does not give one logit for each draw.
        UnsupportedError: on use, if the prior cannot be drawn from before the latents are known.

    Example:
        >>> import torch, lowerbound as lb
        >>> model = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> objective = AAE(lb.mlp(2, 32, 1), weight=10.0, learning_rate=1e-3)
        >>> run = lb.fit(model, objective, torch.rand(50, 6), epochs=1, progress=False)
        >>> list(run.history[0]["train"])
        ['bound', 'rate', 'distortion', 'elbo', 'aggregate KL', 'critic loss']
    """

    critic: nn.Module = field(compare=False, repr=False)
    weight: float | Schedule = 10.0
    samples: int = 1
    kl: KL = "auto"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        check_critic("AAE", self.critic, self.learning_rate)
        super().__post_init__()
        check_number("AAE: weight", self.weight, 0)

    def penalty(self, draw: Draw) -> Tensor:
        """``weight`` times the critic's mean :math:`-\\log(1 - \\sigma(f(z)))`, ``[B]``."""
        return get_value(self.weight) * softplus(self._logits(draw.z)).mean(0)

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The score with its terms, the ELBO, and the critic's estimate of the KL, ``[B]`` each."""
        return super().terms(draw) | {"aggregate KL": self._logits(draw.z).mean(0)}

    def players(self) -> dict[str, Player]:
        """The critic."""
        return {"critic": Player(self.critic, self.learning_rate)}

    def losses(self, draw: Draw) -> dict[str, Tensor]:
        """The critic's cross-entropy between draws from q and from the prior, ``[B]``, in nats."""
        of_posterior = self._logits(draw.z.detach())
        of_prior = self._logits(draw.z_from_prior.detach())
        return {"critic": compute_cross_entropy(of_posterior, of_prior)}

    def _logits(self, z: Tensor) -> Tensor:
        return compute_logits("AAE", self.critic, z)
