"""The rate in three parts, each with a weight: beta-TCVAE.

Suffixes of shapes: K draws, B examples, B posteriors of the same batch, J units of z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.describe import describable
from lowerbound.distributions import entrywise_log_prob
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import Draw
from lowerbound.objectives.penalised import KL, PenalisedELBO, find_posteriors
from lowerbound.objectives.schedules import Schedule, check_number, get_value
from lowerbound.settings import check_whole_number


@describable
@dataclass(frozen=True)
class BetaTCVAE(PenalisedELBO):
    r"""beta-TCVAE (Chen, Li, Grosse & Duvenaud 2018): the rate in three parts, in nats per example.

    .. math:: \underbrace{\mathrm{KL}(q(z, x) \,\|\, q(z)\, p(x))}_{\text{mutual information}} +
              \underbrace{\mathrm{KL}\Big(q(z) \,\Big\|\, \prod_j q(z_j)\Big)}_{
              \text{total correlation}} +
              \underbrace{\sum_j \mathrm{KL}(q(z_j) \,\|\, p(z_j))}_{\text{dimension-wise KL}}

    Training maximises the expected log likelihood less these parts, weighted by ``alpha``, ``beta``
    and ``gamma``. The reported bound is still the ELBO, and the parts are logged. If the prior does
    not factorise over units, the last part is the divergence of the product of q(z_j) from it.

    The aggregate posterior q(z), the mean of q(z|x) over all N examples, is estimated from
    the B examples of a batch. Its density at a draw from the posterior of example i is

    .. math:: \frac1N q(z \mid x_i) + \frac{N - 1}{N}\, \frac1{B - 1}
              \sum_{n \ne i} q(z \mid x_n), \qquad z \sim q(z \mid x_i)

    These are the stratified weights of the paper's appendix C, averaged over the order of the
    batch. Over all batches that contain example i its mean is q(z), for every z. If posteriors do
    not overlap, the mutual information is exactly log N. Each part depends on the other examples of
    a batch. The logarithm of the estimate is biased: the smaller the batch, the smaller the
    estimate of q(z) on average, and the larger the mutual information.

    Args:
        alpha: the weight of the mutual information, or a schedule.
        beta: the weight of the total correlation, or a schedule.
        gamma: the weight of the dimension-wise KL, or a schedule.
        size: N. With ``None``, :func:`lowerbound.fit` uses the number of training examples, and the
            objective of its :class:`lowerbound.Run` has this size.
        samples: L, the draws for each example.
        kl: how the reported rate is computed, as in :class:`lowerbound.ELBO`.

    Raises:
        SettingsError: for settings that are unknown or out of range; on use, if the size is not
            known.
        UnsupportedError: on use, if the units of z are not independent under q, or if q depends on
            other latents.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> run = lb.fit(vae, BetaTCVAE(), torch.rand(50, 6), epochs=1, progress=False)
        >>> list(run.history[0]["train"])[3:]
        ['mutual information', 'total correlation', 'dimension-wise KL']
        >>> run.objective.size
        50
    """

    alpha: float | Schedule = 1.0
    beta: float | Schedule = 6.0
    gamma: float | Schedule = 1.0
    size: int | None = None
    samples: int = 1
    kl: KL = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "gamma"):
            check_number(f"BetaTCVAE: {name}", getattr(self, name), 0)
        if self.size is not None:
            size = check_whole_number("BetaTCVAE: size", self.size)
            object.__setattr__(self, "size", size)

    def for_training_on(self, count: int) -> BetaTCVAE:
        """The same objective, with the number of training examples as its size if it has none."""
        if self.size is not None:
            return self
        return replace(self, size=count)

    def penalty(self, draw: Draw) -> Tensor:
        """The weighted parts, less the rate that the ELBO contains already, ``[B]``."""
        parts = self.parts(draw)
        weights = (self.alpha, self.beta, self.gamma)
        weighted = [
            get_value(weight) * part for weight, part in zip(weights, parts.values(), strict=True)
        ]
        return sum(weighted[1:], weighted[0]) - self.rate(draw)

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The terms of the ELBO, and the three parts of the rate, ``[B]`` each."""
        return super().terms(draw) | self.parts(draw)

    def parts(self, draw: Draw) -> dict[str, Tensor]:
        """The parts of the rate by name, ``[B]`` each. Their sum is the sampled rate.

        Raises:
            SettingsError: if the size is not known.
            UnsupportedError: see the class.
        """
        if self.size is None:
            raise SettingsError(
                "BetaTCVAE: the size of the data is not known; give size=, the number of training "
                "examples, or take the objective of the run: run.objective"
            )
        log_q_KBBJ = score_all_pairs(draw, "BetaTCVAE")
        log_q_KBB = log_q_KBBJ.sum(-1)
        batch = log_q_KBB.shape[1]
        log_weight_BB = compute_log_weights(batch, self.size).to(log_q_KBB.device)
        log_aggregate = (log_weight_BB + log_q_KBB).logsumexp(2)
        log_product = (log_weight_BB[..., None] + log_q_KBBJ).logsumexp(2).sum(-1)
        parts = {
            "mutual information": log_q_KBB.diagonal(dim1=1, dim2=2) - log_aggregate,
            "total correlation": log_aggregate - log_product,
            "dimension-wise KL": log_product - draw.log_prior,
        }
        return {name: part.mean(0).to(draw.log_prior.dtype) for name, part in parts.items()}


def compute_log_weights(batch: int, size: int) -> Tensor:
    """Compute the logarithms of the weights of a batch's posteriors in q(z), ``[B, B]``.

    A row belongs to the example whose draw is scored. The entry on the diagonal is that example
    itself. The weights of a row add up to 1, unless the batch has only one example.

    Example:
        >>> compute_log_weights(3, size=100).exp()
        tensor([[0.0100, 0.4950, 0.4950],
                [0.4950, 0.0100, 0.4950],
                [0.4950, 0.4950, 0.0100]], dtype=torch.float64)
    """
    others = -math.inf
    if size > 1 and batch > 1:
        others = math.log((size - 1) / (size * (batch - 1)))
    weights = torch.full((batch, batch), others, dtype=torch.float64)
    return weights.fill_diagonal_(-math.log(size))


def score_all_pairs(draw: Draw, name: str) -> Tensor:
    """Score each unit of each draw under the posterior of every example, ``[K, B, B, J]``.

    Axis 1 is the example that the draw belongs to, and axis 2 the example of the posterior. The
    result is in double precision, because the parts of the rate are small differences of sums.

    Raises:
        UnsupportedError: naming the objective and the latents whose units are not independent given
            the example alone.
    """
    scores = []
    for group, latent in find_posteriors(draw, name).items():
        if not getattr(latent.q, "normalized", True):
            raise UnsupportedError(
                f"{name}: the posterior of {group!r} is a {type(latent.q).__name__}, which has no "
                "density; use one that has, such as lb.Gaussian"
            )
        scores.append(entrywise_log_prob(latent.q, latent.z.double().unsqueeze(2)).flatten(3))
    return torch.cat(scores, -1)
