"""What an objective is: a bound, and what carries its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar, TypeVar, cast, get_args

from torch import Tensor, nn

from lowerbound.errors import SettingsError
from lowerbound.models import Draw, Gradient, Model
from lowerbound.objectives.schedules import Schedule
from lowerbound.settings import whole_number

Self = TypeVar("Self", bound="Objective")


@dataclass(frozen=True, eq=False)
class Player:
    """A module that an objective owns and trains on a loss of its own, such as a critic.

    Args:
        module: whose parameters are trained.
        learning_rate: its own; that of the model where it is ``None``.
    """

    module: nn.Module
    learning_rate: float | None = None


class Objective(ABC):
    """A lower bound on log p(x), for each example, from one draw; what is maximised.

    Two numbers are kept apart: :meth:`bound` is what is reported, logged and used for selection, :meth:`surrogate` is what
    carries the gradient. ``gradient`` says which way that takes to the posterior's parameters:

    - ``"pathwise"``: through the reparameterised draws (Kingma & Welling 2013).
    - ``"sticking-the-landing"``: the same without the score ``grad log q(z given x)`` at fixed z, whose mean is zero for the
      ELBO (Roeder, Wu & Duvenaud 2017). It vanishes where q is the exact posterior. For more than one sample under a
      logarithm, as in IWAE, that mean is not zero, and the gradient is biased.
    - ``"dreg"``: that score reparameterised as well (Tucker, Lawson, Gu & Maddison 2019): unbiased for every bound here.
    - ``"score-function"``: no gradient through z, which may be discrete, and a leave-one-out baseline from the other
      samples (Mnih & Rezende 2016: VIMCO).

    To write your own: a frozen dataclass with :meth:`bound`, which reads what it needs of a :class:`lowerbound.Draw`; add
    ``samples`` as a field to let it be chosen. If what carries the gradient is not the bound, override :meth:`surrogate`;
    the value that is reported, logged and used for selection stays the bound. A field may hold a
    :class:`lowerbound.Schedule`; while it trains, such a field is a tensor without dimensions with the value of the step.

    Example:
        >>> import torch, lowerbound as lb
        >>> from dataclasses import dataclass
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

    is_bound: ClassVar[bool] = True
    """Whether :meth:`bound` is a lower bound on log p(x); without that it is reported as a score."""

    linear_in_log_weights: ClassVar[bool] = False
    """Whether the bound is a mean of log weights, so that the mean over batches is that over all data."""

    def players(self) -> dict[str, Player]:
        """The modules that the objective owns, by name; none by default."""
        return {}

    def losses(self, draw: Draw) -> dict[str, Tensor]:
        """The loss of each player, ``[B]``, which its own parameters minimise; by the player's name."""
        return {}

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
        return {
            "bound": self.bound(draw),
            "rate": self.rate(draw),
            "distortion": -draw.log_likelihood.mean(0),
        }

    def __call__(self, draw: Draw) -> Tensor:
        """The bound's value with the surrogate's gradient, ``[B]``."""
        surrogate = self.surrogate(draw)
        return self.bound(draw).detach() + (surrogate - surrogate.detach())

    def with_samples(self: Self, samples: int) -> Self:
        """The same bound from another number of samples, as an evaluation may ask for.

        Raises:
            SettingsError: if the bound does not allow that number.
        """
        return (
            replace(cast(Any, self), samples=samples)
            if is_dataclass(self)
            else self.holding({"samples": samples})
        )

    def schedules(self) -> dict[str, Schedule]:
        """The settings that change while it trains, by name."""
        values: dict[str, Any] = {}
        for part in (*reversed(type(self).__mro__), self):
            values |= vars(part)
        return {name: value for name, value in values.items() if isinstance(value, Schedule)}

    def holding(self: Self, values: Mapping[str, float | Tensor]) -> Self:
        """The same objective with these values in the place of its own, such as its schedules.

        Tensors without dimensions can be filled anew from step to step, which a compiled step follows.
        """
        if not values:
            return self
        current = copy(self)
        for name, value in values.items():
            object.__setattr__(current, name, value)  # frozen for everyone else
        return current


def check_common(objective: Objective) -> None:
    """Check ``samples`` and ``gradient``, and keep ``samples`` as an integer.

    Raises:
        SettingsError: naming the objective and the setting.
    """
    name = type(objective).__name__
    object.__setattr__(objective, "samples", whole_number(f"{name}: samples", objective.samples))
    if objective.gradient not in get_args(Gradient):
        known = ", ".join(map(repr, get_args(Gradient)))
        raise SettingsError(
            f"{name}: gradient={objective.gradient!r} is unknown; choose one of {known}"
        )


def refuse_other_types(name: str, model: Any, objective: Any) -> None:
    """Refuse what is no model or no objective, as where the two are exchanged.

    Raises:
        SettingsError: naming what was found instead.
    """
    for argument, value, kind in (("model", model, Model), ("objective", objective, Objective)):
        if not isinstance(value, kind):
            found = (
                f"the class {value.__name__}; call it: {value.__name__}()"
                if isinstance(value, type)
                else type(value).__name__
            )
            raise SettingsError(
                f"{name}: {argument} must be a lowerbound.{kind.__name__}, not {found}"
            )


def refuse_no_others(name: str, samples: int) -> None:
    """A leave-one-out baseline needs another sample.

    Raises:
        SettingsError: if there is none.
    """
    if samples < 2:
        raise SettingsError(
            f"{name}: gradient='score-function' takes the baseline of a sample from the others of its group, but there is "
            "one only; use samples=2 or more"
        )
