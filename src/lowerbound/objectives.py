"""Objectives: from a draw to a bound for each example. They see neither networks nor data."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import Draw, Gradient


class Objective(ABC):
    """A lower bound on log p(x), for each example, from one draw; what is maximised.

    To write your own: a frozen dataclass with :meth:`bound`, which reads what it needs of a :class:`lowerbound.Draw`; add
    ``samples`` as a field to let it be chosen. If what carries the gradient is not the bound, override :meth:`surrogate`;
    the value that is reported, logged and used for selection stays the bound.

    Example:
        >>> import torch, lowerbound as lb
        >>> @dataclass(frozen=True)
        ... class WeightedRate(lb.Objective):
        ...     weight: float = 4.0
        ...
        ...     def bound(self, draw):
        ...         return draw.log_likelihood.mean(0) - draw.rate
        ...
        ...     def surrogate(self, draw):
        ...         return draw.log_likelihood.mean(0) - self.weight * draw.rate
        >>> vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12)))
        >>> lb.fit(vae, WeightedRate(), torch.rand(50, 6), epochs=1, progress=False).history[0]["train"].keys()
        dict_keys(['bound', 'rate', 'distortion'])
    """

    samples: int = 1
    gradient: Gradient = "pathwise"

    @abstractmethod
    def bound(self, draw: Draw) -> Tensor:
        """The bound, ``[B]``, in nats."""

    def surrogate(self, draw: Draw) -> Tensor:
        """What carries the gradient, ``[B]``; by default the bound itself."""
        return self.bound(draw)

    def rate(self, draw: Draw) -> Tensor:
        """The rate that is reported, ``[B]``, in nats."""
        return draw.rate

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """What is reported, ``[B]`` each: the bound, its rate and its distortion."""
        return {"bound": self.bound(draw), "rate": self.rate(draw), "distortion": -draw.log_likelihood.mean(0)}

    def __call__(self, draw: Draw) -> Tensor:
        """The bound's value with the surrogate's gradient, ``[B]``."""
        bound, surrogate = self.bound(draw), self.surrogate(draw)
        return surrogate + (bound - surrogate).detach()


def whole_number(name: str, value: Any) -> int:
    """``value`` as an integer of at least 1.

    Raises:
        SettingsError: if it is none, naming it.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise SettingsError(f"{name}={value!r} must be a whole number of at least 1")
    return number


@describable
@dataclass(frozen=True)
class ELBO(Objective):
    r"""The evidence lower bound (Kingma & Welling 2013, equations 3 and 6 to 8), in nats per example.

    .. math:: \mathcal L(x) = \mathbb E_{q(z \mid x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \le \log p(x)

    estimated by ``samples`` draws of z. The KL term is computed in closed form where one is registered with torch, which is
    the paper's estimator B, or sampled, which is its estimator A.

    Args:
        samples: L, the draws for each example.
        kl: ``"auto"``: in closed form if there is one. ``"closed-form"``: refused if there is none. ``"sampled"``: estimator A.
        gradient: ``"pathwise"``: through the reparameterised draws.

    Raises:
        SettingsError: for an unknown ``kl`` or fewer than one sample.
        UnsupportedError: on use, if ``kl="closed-form"`` and there is none.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 6), scale=1.0)
        ... )
        >>> ELBO(samples=7)(vae.draw(torch.zeros(5, 6), samples=7)).shape
        torch.Size([5])
    """

    samples: int = 1
    kl: Literal["auto", "closed-form", "sampled"] = "auto"
    gradient: Gradient = "pathwise"

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", whole_number("ELBO: samples", self.samples))
        if self.kl not in ("auto", "closed-form", "sampled"):
            raise SettingsError(f"ELBO: kl={self.kl!r} is unknown; choose 'auto', 'closed-form' or 'sampled'")

    def bound(self, draw: Draw) -> Tensor:
        """``mean_k log p(x given z_k) - KL``, ``[B]``."""
        return draw.log_likelihood.mean(0) - self.rate(draw)

    def rate(self, draw: Draw) -> Tensor:
        """The KL term as ``kl`` has it, ``[B]``: ``bound = -(rate + distortion)``."""
        if self.kl == "sampled":
            return draw.sampled_rate
        if self.kl == "closed-form" and draw.analytic_rate is None:
            raise UnsupportedError(
                f"no closed-form KL is registered for {type(draw.q).__name__} against {type(draw.prior).__name__}; use kl='auto'"
            )
        return draw.rate
