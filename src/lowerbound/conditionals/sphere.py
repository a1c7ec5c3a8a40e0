"""Priors and posteriors over unit vectors: latents on a sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Conditional, Parametric, to_full_precision
from lowerbound.describe import describable
from lowerbound.distributions import soft_clamp, sphere
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape
from lowerbound.settings import check_whole_number


@describable
class SphereUniform(Conditional):
    """The uniform density over unit vectors, a prior. It ignores its input.

    Args:
        size: D, the number of dimensions of a vector; the sphere has D - 1.

    Raises:
        SettingsError: for fewer than two dimensions.

    Source: Davidson et al. 2018, "Hyperspherical variational auto-encoders".

    Example:
        >>> SphereUniform(3)().sample((5,)).norm(dim=-1).round(decimals=4)
        tensor([1., 1., 1., 1., 1.])
    """

    zero: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = check_whole_number("SphereUniform: size", size)
        if size < 2:
            raise SettingsError(
                f"SphereUniform: size={size} must be at least 2, because a circle is the smallest "
                "sphere"
            )
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, *given: Tensor) -> sphere.SphereUniform:
        """The uniform density, batch shape ``[]``."""
        return sphere.SphereUniform(self.size, to_full_precision(self.zero))


@describable
class PowerSpherical(Parametric):
    r"""The power spherical density over unit vectors, whose parameters a network gives.

    .. math::

        p(z) \propto (1 + \mu^\top z)^\kappa, \qquad \mu = \frac{m}{\|m\|}, \quad
        \kappa = (D - 1) \log(1 + e^v)

    The factor D - 1 makes ``v`` mean the same in every dimension: the mean cosine of the angle to
    the direction :math:`\mu` is :math:`\kappa / (D - 1 + \kappa)`, 0.41 for v = 0. Without this
    factor, a new posterior in many dimensions is almost uniform, and training starts slowly.

    Its draws are reparameterised, without rejections, and its KL divergence from
    :class:`SphereUniform` has a closed form. Its natural point is the mean direction. With a prior
    that depends on a field, such as ``lb.Given(lb.PowerSpherical(...), "label", ...)``, the KL
    divergence is sampled.

    Args:
        network: from the input to ``m``, D entries, and ``v``: ``[*leading, D + 1]``.
        max_concentration: the largest value of ``kappa``, at which the angle to the mean direction
            is about :math:`\sqrt{2 (D - 1) / \kappa}`.

    Raises:
        ShapeError: if the network declares fewer than three outputs.
        SettingsError: if ``max_concentration`` is not a number above 2.

    Source: De Cao & Aziz 2020, "The power spherical distribution".

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     prior=lb.SphereUniform(3),
        ...     posterior=lb.PowerSpherical(lb.mlp((1, 8, 8), 32, 4)),
        ...     likelihood=lb.Bernoulli(lb.mlp(3, 32, (1, 8, 8))),
        ... )
        >>> vae.encode(torch.rand(2, 1, 8, 8)).norm(dim=-1).round(decimals=4)
        tensor([1., 1.])
    """

    def __init__(self, network: nn.Module, max_concentration: float = 1e4) -> None:
        super().__init__()
        self.network = network
        self.max_concentration = max_concentration
        if not 2 < max_concentration < math.inf:
            raise SettingsError(
                f"PowerSpherical: max_concentration={max_concentration!r} must be a finite number "
                "above 2"
            )
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None and (len(declared) > 1 or declared[0] < 3):
            raise ShapeError(
                f"PowerSpherical: a network with output shape {declared} does not give a direction "
                "and a concentration; a sphere in D dimensions, at least 2, needs D + 1 outputs"
            )

    def from_parameters(self, raw: Tensor) -> sphere.PowerSpherical:
        """The distribution of these outputs of the network."""
        direction, v = raw[..., :-1], raw[..., -1]
        # A direction of length 0, as of a new lb.constant, becomes the first axis.
        is_zero = (direction == 0).all(-1, keepdim=True)
        first = nn.functional.pad(is_zero.to(raw.dtype), (0, direction.shape[-1] - 1))
        loc = nn.functional.normalize(direction + first, dim=-1)
        concentration = (direction.shape[-1] - 1) * nn.functional.softplus(v)
        concentration = soft_clamp(concentration, -math.inf, self.max_concentration)
        return sphere.PowerSpherical(loc, concentration)
