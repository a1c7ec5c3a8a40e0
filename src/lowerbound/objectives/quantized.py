"""The ELBO of a model whose posterior chooses codes, with the losses that train the codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowerbound.describe import describable
from lowerbound.distributions import CodePoint
from lowerbound.errors import UnsupportedError
from lowerbound.models import Draw
from lowerbound.objectives.base import Objective, check_common
from lowerbound.objectives.schedules import Schedule, check_number, get_value


@describable
@dataclass(frozen=True)
class QuantizedELBO(Objective):
    r"""The ELBO of vector quantisation (van den Oord et al. 2017), in nats per example.

    .. math:: \mathcal L(x) = \log p(x \mid z) + \log p(z) \le \log p(x), \qquad z = t_c

    The code that the encoder chooses is a posterior with all probability on one code, so this is a
    true bound. Under a uniform prior over K codes each code costs log K nats. Training maximises

    .. math:: \log p(x \mid z) + \log p(z) - \beta \lVert e - \operatorname{sg}[t_c] \rVert^2
              - \lambda \lVert \operatorname{sg}[e] - t_c \rVert^2

    where sg is a stop-gradient: the commitment keeps the encoder's output e near its code, and the
    codebook loss moves the code to the output. The second has no effect on codes that are moving
    averages. Both are sums over positions and channels, in the same unit as the log likelihood. The
    reported bound contains neither; the term ``commitment`` is the squared distance.

    Args:
        commitment: :math:`\beta`, the weight of the commitment loss, or a schedule.
        codebook: :math:`\lambda`, the weight of the codebook loss, or a schedule.
        samples: L, the draws for each example; those of a code are all the same.

    Raises:
        SettingsError: for negative weights.
        UnsupportedError: on use, if no posterior of the model chooses codes.

    Example:
        >>> import torch, lowerbound as lb
        >>> posterior = lb.VectorQuantized(lb.mlp(6, 32, (3, 2)), codes=8)
        >>> vae = lb.LatentModel(
        ...     lb.CodePrior(posterior), posterior, lb.Gaussian(lb.mlp((3, 2), 32, 12))
        ... )
        >>> run = lb.fit(vae, QuantizedELBO(), torch.rand(50, 6), epochs=1, progress=False)
        >>> list(run.history[0]["train"])
        ['bound', 'rate', 'distortion', 'commitment']
    """

    linear_in_log_weights: ClassVar[bool] = True

    commitment: float | Schedule = 0.25
    codebook: float | Schedule = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        check_common(self)
        check_number("QuantizedELBO: commitment", self.commitment, 0)
        check_number("QuantizedELBO: codebook", self.codebook, 0)

    def bound(self, draw: Draw) -> Tensor:
        """``log p(x|z) + log p(z)``, ``[B]``."""
        return draw.log_likelihood.mean(0) - draw.rate

    def surrogate(self, draw: Draw) -> Tensor:
        """The bound less the two losses, ``[B]``."""
        commitment, codebook = _sum_errors(draw)
        penalty = get_value(self.commitment) * commitment + get_value(self.codebook) * codebook
        return self.bound(draw) - penalty

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The terms of the bound, and the squared distance of the outputs from their codes."""
        return super().terms(draw) | {"commitment": _sum_errors(draw)[0].detach()}


def _sum_errors(draw: Draw) -> tuple[Tensor, Tensor]:
    """Both squared distances, ``[B]``: with the gradient of the outputs, and of the codes."""
    errors = [
        latent.q.errors
        for latent in draw.latents.values()
        if isinstance(latent.q, CodePoint) and latent.q.errors is not None
    ]
    if not errors:
        raise UnsupportedError(
            "QuantizedELBO is for a posterior with a learned codebook, such as lb.VectorQuantized; "
            "use lb.ELBO for this model"
        )
    of_outputs, of_codes = zip(*errors, strict=True)
    return _sum_over_groups(of_outputs), _sum_over_groups(of_codes)


def _sum_over_groups(errors: Sequence[Tensor]) -> Tensor:
    """Sum over groups of latents, ``[B]``, each averaged over the latents on which it depends."""
    return torch.stack([error.reshape(-1, error.shape[-1]).mean(0) for error in errors]).sum(0)
