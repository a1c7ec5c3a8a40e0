"""Mixtures of diagonal Gaussians: a prior with learned components, and one given by a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Conditional, Parametric, to_full_precision
from lowerbound.conditionals.location_scale import bound_log_scale, check_scale_limits
from lowerbound.describe import describable
from lowerbound.distributions import DiagonalNormal, Mixture
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape, as_shape
from lowerbound.settings import check_whole_number, is_positive_number

# The steps of expectation maximisation from which a mixture starts.
_STEPS = 50

# A component with a smaller share of all latents keeps its mean.
_LEAST_SIZE = 1e-6


@describable
class MixturePrior(Conditional):
    r"""A prior that is a mixture of K Gaussians, whose weights, means and scales are learned.

    .. math:: p(z) = \sum_{k=1}^K w_k \, N(z; \mu_k, \operatorname{diag} \sigma_k^2)

    At the start the weights are equal, the scales are 1, and the means are drawn from
    ``N(0, spread^2)``, so that the components differ. KL(q || p) has no closed form, so the rate is
    sampled. For a mixture that depends on a field, use :class:`GaussianMixture` within
    :class:`lowerbound.Given`.

    Args:
        shape: the number of dimensions of z, or its shape.
        components: K.
        spread: the standard deviation of the means at the start.
        min_scale: the smallest value of a scale.
        max_scale: the largest value of a scale.

    Raises:
        SettingsError: for a number of components below 1, a spread that is not positive, or limits
            of the scale that are too close to each other.

    Source: the "MoG" prior of Tomczak & Welling 2018, "VAE with a VampPrior"; Dilokthanakul et al.
    2016.

    Example:
        >>> import lowerbound as lb
        >>> prior = lb.MixturePrior(2, components=5)
        >>> prior().components.batch_shape, prior().sample((3,)).shape
        (torch.Size([5]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        shape: int | Shape,
        components: int,
        spread: float = 0.3,
        min_scale: float = 1e-3,
        max_scale: float = 1e3,
    ) -> None:
        super().__init__()
        self.shape = as_shape(shape)
        self.components = check_whole_number("MixturePrior: components", components)
        self.spread = spread
        self.min_scale = min_scale
        self.max_scale = max_scale
        check_scale_limits(self)
        if not is_positive_number(spread):
            raise SettingsError(f"MixturePrior: spread={spread!r} must be a positive number")
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.means = nn.Parameter(spread * torch.randn(self.components, *self.shape))
        self.log_variances = nn.Parameter(torch.zeros(self.components, *self.shape))

    def forward(self, *given: Tensor) -> Mixture:
        """The mixture, batch shape ``[]``."""
        logits, means, log_variances = map(
            to_full_precision, (self.logits, self.means, self.log_variances)
        )
        log_scale = bound_log_scale(self, log_variances)
        return Mixture(DiagonalNormal(means, log_scale, len(self.shape)), logits)

    @torch.no_grad()
    def start_from_latents(self, z: Tensor) -> None:
        """Fit the mixture to some latents by expectation maximisation.

        The components start at latents that are far from each other, with the scales of all
        latents. Each component's variance counts that of all latents as one more observation, so no
        component shrinks to a single latent.

        Args:
            z: ``[N, *shape]``.
        """
        log_weights, means, variances = _fit_by_em(z.flatten(1).double(), self.components)
        low, high = 2 * math.log(self.min_scale) + 1, 2 * math.log(self.max_scale) - 1
        self.logits.copy_(log_weights)
        self.means.copy_(means.reshape(self.means.shape))
        self.log_variances.copy_(variances.log().clamp(low, high).reshape(self.means.shape))


def _fit_by_em(z: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a mixture to rows ``[N, J]``.

    Returns:
        Log weights ``[K]``, means ``[K, J]`` and variances ``[K, J]``.
    """
    spread = z.var(0, correction=0).clamp_min(torch.finfo(torch.float32).eps)
    means = _choose_distant_rows(z / spread.sqrt(), count) * spread.sqrt()
    variances = spread.expand_as(means)
    log_weights = z.new_full((count,), -math.log(count))
    for _ in range(_STEPS):
        # The log density without its constant; products of matrices need no array [N, K, J].
        squares = z.square() @ (1 / variances).T - 2 * z @ (means / variances).T
        squares = squares + (means.square() / variances).sum(1)
        shares = (log_weights - 0.5 * (squares + variances.log().sum(1))).softmax(1)
        sizes = shares.sum(0)
        log_weights = ((sizes + 1) / (sizes + 1).sum()).log()
        means = torch.where(sizes[:, None] > _LEAST_SIZE, shares.T @ z / sizes[:, None], means)
        deviations = shares.T @ z.square() - 2 * means * (shares.T @ z)
        deviations = deviations + sizes[:, None] * means.square()
        variances = (deviations.clamp_min(0.0) + spread) / (sizes[:, None] + 1)
    return log_weights, means, variances


def _choose_distant_rows(z: Tensor, count: int) -> Tensor:
    """Choose rows ``[K, J]``, each with a probability that grows with its distance from the others.

    Source: Arthur & Vassilvitskii 2007, "k-means++".
    """
    chosen = [int(torch.randint(len(z), ()))]
    distances = (z - z[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        place = int(torch.multinomial(distances + torch.finfo(z.dtype).tiny, 1))
        chosen.append(place)
        distances = torch.minimum(distances, (z - z[place]).square().sum(1))
    return z[chosen]


@describable
class GaussianMixture(Parametric):
    r"""A mixture of K diagonal Gaussians whose weights, means and scales a network gives.

    .. math:: q(z \mid x) = \sum_{k=1}^K w_k(x) \, N(z; \mu_k(x), \operatorname{diag} \sigma_k^2(x))

    As a posterior it can have several modes. A draw comes from one component, and its gradient from
    implicit reparameterisation: it is unbiased, and reaches weights, means and scales, so every
    objective and every ``gradient`` applies. It costs a triangular solve of J equations for each
    draw. Morningstar et al. 2021 (SIWAE) draw from every component instead. That needs no implicit
    gradient, but K times as many evaluations of the likelihood.

    As a prior, use it within :class:`lowerbound.Given`, which makes it p(z|c).

    Args:
        network: from the input to K logits, K J means and K J log variances:
            ``[*leading, K (2 J + 1)]``.
        components: K.
        min_scale: the smallest value of a scale.
        max_scale: the largest value of a scale.

    Raises:
        ShapeError: if the network declares an output shape that is not ``(K (2 J + 1),)`` for any
            J.
        SettingsError: for a number of components below 1, or limits of the scale that are too close
            to each other.

    Source: Graves 2016, "Stochastic backpropagation through mixture density distributions";
    Figurnov, Mohamed & Mnih 2018, "Implicit reparameterization gradients".

    Example:
        >>> import lowerbound as lb
        >>> q = lb.GaussianMixture(lb.mlp(6, 32, 3 * (2 * 2 + 1)), components=3)(torch.zeros(5, 6))
        >>> q.batch_shape, q.event_shape, q.rsample((4,)).shape
        (torch.Size([5]), torch.Size([2]), torch.Size([4, 5, 2]))
    """

    def __init__(
        self,
        network: nn.Module,
        components: int,
        min_scale: float = 1e-3,
        max_scale: float = 1e3,
    ) -> None:
        super().__init__()
        self.network = network
        self.components = check_whole_number("GaussianMixture: components", components)
        self.min_scale = min_scale
        self.max_scale = max_scale
        check_scale_limits(self)
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None:
            self._find_dimensions(declared)

    def _find_dimensions(self, outputs: Shape) -> int:
        """Find J, with K (2 J + 1) = outputs."""
        each, rest = divmod(outputs[-1], self.components)
        if len(outputs) > 1 or rest or each < 3 or not each % 2:
            raise ShapeError(
                f"GaussianMixture: {self.components} components over J dimensions need "
                f"{self.components} (2 J + 1) outputs; the network gives {outputs} "
                f"({3 * self.components} for J = 1, {5 * self.components} for J = 2)"
            )
        return each // 2

    def from_parameters(self, raw: Tensor) -> Mixture:
        """The mixture of these outputs of the network."""
        size = self._find_dimensions(raw.shape[-1:])
        count = self.components * size
        logits, means, log_variances = raw.split((self.components, count, count), -1)
        means, log_variances = (
            part.unflatten(-1, (self.components, size)) for part in (means, log_variances)
        )
        return Mixture(DiagonalNormal(means, bound_log_scale(self, log_variances)), logits)
