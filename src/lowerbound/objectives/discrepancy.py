"""The maximum mean discrepancy of the aggregate posterior from the prior: InfoVAE and MMD-WAE.

Suffixes of shapes: K draws, B examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import SettingsError
from lowerbound.models import Draw
from lowerbound.objectives.penalised import KL, PenalisedReconstruction
from lowerbound.objectives.schedules import Schedule, check_number, get_value, is_always

Kernel = Literal["imq", "rbf"]

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The scales of the kernel, as multiples of the mean squared distance of two Gaussian draws."""


@describable
@dataclass(frozen=True)
class InfoVAE(PenalisedReconstruction):
    r"""InfoVAE (Zhao, Song & Ermon 2019), and the MMD-WAE as a special case; a score.

    Training maximises

    .. math:: \mathbb E_{q(z \mid x)}[\log p(x \mid z)]
              - (1 - \alpha)\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))
              - (\alpha + \lambda - 1)\, \mathrm{MMD}^2(q(z), p(z))

    With ``alpha=0`` and :math:`\lambda = 1` this is the ELBO. With ``alpha=1`` no rate is left, and
    it is the Wasserstein auto-encoder with the maximum mean discrepancy (Tolstikhin, Bousquet,
    Gelly & Schölkopf 2018), whose posterior may be a :class:`lowerbound.Point`. The value is
    reported as a score, because it does not bound log p(x), and the ELBO is logged beside it.

    The discrepancy between the aggregate posterior q(z) and the prior is

    .. math:: \mathrm{MMD}^2(q, p) = \mathbb E[k(z, z') - 2 k(z, y) + k(y, y')], \qquad
              z, z' \sim q(z), \quad y, y' \sim p(z)

    It is estimated without bias from all pairs of different examples of a batch, each with its draw
    of z and a draw y from the prior. So it may be negative, its mean does not depend on the batch
    size, and it depends on the other examples of the batch. A batch of one example has no pair, and
    its discrepancy counts as 0. It is logged as ``discrepancy``.

    Args:
        alpha: the share of the rate that is left out, from 0 to 1, or a schedule.
        weight: :math:`\lambda`, or a schedule.
        kernel: ``"imq"``, the inverse multiquadratic :math:`c / (c + r^2)`, or ``"rbf"``, the
            Gaussian :math:`e^{-r^2 / c}`, where r is the distance. Both are at most 1.
        scales: the kernel is the mean of those with :math:`c = 2 J s` for each of these s. Here 2 J
            is the mean squared distance of two draws from a standard Gaussian over J units.
        samples: L, the draws for each example.
        kl: how the rate is computed, as in :class:`lowerbound.ELBO`.

    Raises:
        SettingsError: for settings that are unknown or out of range.
        UnsupportedError: on use, if the prior cannot be drawn from before the latents are known.

    Example:
        >>> import torch, lowerbound as lb
        >>> wae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Point(lb.mlp(6, 2)), lb.Gaussian(lb.mlp(2, 6), scale=0.1)
        ... )
        >>> run = lb.fit(wae, InfoVAE(alpha=1.0), torch.rand(50, 6), epochs=1, progress=False)
        >>> list(run.history[0]["train"])
        ['bound', 'rate', 'distortion', 'discrepancy']
        >>> run.objective.label(wae)
        'score'
    """

    alpha: float | Schedule = 0.0
    weight: float | Schedule = 1000.0
    kernel: Kernel = "imq"
    scales: tuple[float, ...] = SCALES
    samples: int = 1
    kl: KL = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("InfoVAE: alpha", self.alpha, 0, 1)
        check_number("InfoVAE: weight", self.weight, 1)
        if self.kernel not in ("imq", "rbf"):
            raise SettingsError(
                f"InfoVAE: kernel={self.kernel!r} is unknown; choose 'imq' or 'rbf'"
            )
        object.__setattr__(self, "scales", tuple(self.scales))
        for scale in self.scales:
            check_number("InfoVAE: scales", scale)
        if not self.scales or min(self.scales) <= 0:
            raise SettingsError(f"InfoVAE: scales={self.scales!r} must be positive numbers")

    def penalty(self, draw: Draw) -> Tensor:
        """The rest of the rate, and the weighted discrepancy, ``[B]``."""
        alpha, weight = get_value(self.alpha), get_value(self.weight)
        penalty = (alpha + weight - 1) * self.discrepancy(draw)
        if is_always(alpha, 1.0):
            return penalty
        return penalty + (1 - alpha) * self.rate(draw)

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The score with its terms, the ELBO, and the discrepancy, ``[B]`` each."""
        return super().terms(draw) | {"discrepancy": self.discrepancy(draw)}

    def discrepancy(self, draw: Draw) -> Tensor:
        """The contribution of each example to the estimate of the squared MMD, ``[B]``."""
        z, y = draw.z.flatten(2), draw.z_from_prior.flatten(2)
        return compute_discrepancy(z, y, self.kernel, self.scales)


def compute_discrepancy(
    z: Tensor, y: Tensor, kernel: Kernel = "imq", scales: Sequence[float] = SCALES
) -> Tensor:
    """Estimate the squared maximum mean discrepancy of two distributions without bias, ``[B]``.

    Its mean over B is the estimate; for K draws of each example it is averaged over K, too.

    Args:
        z: draws from the first, ``[K, B, J]``; those along B are independent.
        y: draws from the second, ``[K, B, J]``.
        kernel: see :class:`InfoVAE`.
        scales: see :class:`InfoVAE`.

    Example:
        >>> z = torch.zeros(1, 4, 2)
        >>> compute_discrepancy(z, z + 1.0, "rbf", scales=[0.5])
        tensor([1.2642, 1.2642, 1.2642, 1.2642])
    """
    batch = z.shape[1]
    if batch == 1:
        return z[0].sum(-1) * 0

    def compare(a: Tensor, b: Tensor) -> Tensor:
        distance_KBB = (a[:, :, None] - b[:, None]).square().sum(-1)
        return _average_kernels(distance_KBB, kernel, [2 * z.shape[2] * scale for scale in scales])

    crossed_KBB = compare(z, y)
    pairs_KBB = compare(z, z) + compare(y, y) - crossed_KBB - crossed_KBB.mT
    of_pairs = 1 - torch.eye(batch, dtype=z.dtype, device=z.device)
    return (pairs_KBB * of_pairs).sum(2).mean(0) / (batch - 1)


def _average_kernels(distance: Tensor, kernel: Kernel, widths: Sequence[float]) -> Tensor:
    """Average the kernels of several widths at these squared distances."""
    if kernel == "imq":
        values = [width / (width + distance) for width in widths]
    else:
        values = [(distance / -width).exp() for width in widths]
    return sum(values[1:], values[0]) / len(values)
