"""A posterior that is a point: the encoder of a deterministic auto-encoder."""

from __future__ import annotations

from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.describe import describable
from lowerbound.distributions import PointMass


@describable
class Point(Parametric):
    r"""All probability at one point, which a network gives: a deterministic encoder.

    With it the ELBO is the score of a regularised auto-encoder,

    .. math:: \log p(x \mid z) + \log p(z), \qquad z = f(x)

    which is not a bound on log p(x), because a point has no density: ``normalized`` is False, and
    :func:`lowerbound.log_likelihood` refuses the model.

    Args:
        network: from the input to the point, ``[*leading, *event]``.

    Source: Ghosh et al. 2020, "From variational to deterministic autoencoders".

    Example:
        >>> import torch, lowerbound as lb
        >>> q = Point(lb.mlp((1, 8, 8), 32, 2))(torch.zeros(5, 1, 8, 8))
        >>> q.rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    normalized = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.event_dims = event_dims_of(network)

    def from_parameters(self, raw: Tensor) -> PointMass:
        """The point that the network gave."""
        return PointMass(raw, self.event_dims)
