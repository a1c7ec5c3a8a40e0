"""The ELBO of a model that knows the labels of some examples, with a loss for its classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import UnsupportedError
from lowerbound.models import Draw
from lowerbound.objectives.base import Objective, check_common
from lowerbound.objectives.schedules import Schedule, check_number, get_value

_LOG_Q = "log_q_label"


@describable
@dataclass(frozen=True)
class SupervisedELBO(Objective):
    r"""The objective of semi-supervised learning (Kingma et al. 2014), in nats per example.

    .. math:: \mathcal L(x, y) + \alpha \log q(y \mid x) \text{ with a label}, \qquad
        \sum_y q(y \mid x) \left( \mathcal L(x, y) - \log q(y \mid x) \right) \text{ without}

    where :math:`\mathcal L(x, y)` is the ELBO for a known label. The reported bound leaves out the
    classifier's term: it is a bound on log p(x, y) for examples with a label, and on log p(x) for
    others. The term ``classification`` is :math:`-\log q(y \mid x)`, and 0 for examples without a
    label.

    Args:
        alpha: the weight of the classifier's term for each labelled example, or a schedule. The
            paper uses a tenth of the number of all examples, divided by the number of labelled
            ones.
        samples: L, the draws of z for each label.

    Raises:
        SettingsError: for a weight below 0.
        UnsupportedError: on use, for another model than :class:`lowerbound.SemiSupervised`.

    Source: Kingma, Rezende, Mohamed & Welling 2014, "Semi-supervised learning with deep generative
    models".

    Example:
        >>> import torch, lowerbound as lb
        >>> model = lb.SemiSupervised(
        ...     lb.StandardNormal(2),
        ...     lb.mlp(6, 3),
        ...     lb.Given(lb.Gaussian(lb.mlp(6 + 3, 4)), "y", categories=3),
        ...     lb.Given(lb.Bernoulli(lb.mlp(2 + 3, 6)), "y", categories=3),
        ...     categories=3,
        ... )
        >>> draw = model.draw(torch.zeros(2, 6), label=torch.tensor([1, -1]))
        >>> terms = SupervisedELBO(alpha=10.0).terms(draw)
        >>> list(terms), bool(terms["classification"][1] == 0)  # the second label is not known
        (['bound', 'rate', 'distortion', 'classification'], True)
    """

    linear_in_log_weights: ClassVar[bool] = True

    alpha: float | Schedule = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        check_common(self)
        check_number("SupervisedELBO: alpha", self.alpha, 0)

    def bound(self, draw: Draw) -> Tensor:
        """The ELBO, ``[B]``."""
        return draw.log_likelihood.mean(0) - draw.rate

    def surrogate(self, draw: Draw) -> Tensor:
        """The ELBO and the classifier's term, ``[B]``."""
        return self.bound(draw) + get_value(self.alpha) * _get_log_q(draw)

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The terms of the bound, and the classifier's loss."""
        return super().terms(draw) | {"classification": -_get_log_q(draw).detach()}


def _get_log_q(draw: Draw) -> Tensor:
    """log q(y|x) of the known labels, ``[B]``, and 0 for other examples."""
    if _LOG_Q not in draw.extra:
        raise UnsupportedError(
            "SupervisedELBO is for a model that classifies, such as lb.SemiSupervised; use lb.ELBO "
            "for this model"
        )
    return draw.extra[_LOG_Q]
