"""The base of all objectives: a bound, and a surrogate with the gradient to follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar, TypeVar, cast, get_args

from torch import Tensor, nn

from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import Draw, Gradient, Model
from lowerbound.objectives.schedules import Schedule
from lowerbound.settings import check_whole_number

Self = TypeVar("Self", bound="Objective")


@dataclass(frozen=True, eq=False)
class Player:
    """A module that an objective owns and trains on a loss of its own, such as a critic.

    Args:
        module: the module, whose parameters are trained.
        learning_rate: its learning rate; ``None`` for that of the model.
    """

    module: nn.Module
    learning_rate: float | None = None


class Objective(ABC):
    """A lower bound on log p(x) for each example, computed from one draw. Training maximises it.

    Two values are kept apart: :meth:`bound` is reported, logged and used for selection, and
    :meth:`surrogate` gives the gradient. ``gradient`` says how the posterior's parameters get their
    gradient:

    - ``"pathwise"``: through the reparameterised draws (Kingma & Welling 2013).
    - ``"sticking-the-landing"``: the same without the score ``grad log q(z|x)`` at fixed z,
      whose mean is zero for the ELBO (Roeder, Wu & Duvenaud 2017). It vanishes where q is the exact
      posterior. For several samples under one logarithm, as in IWAE, the mean of the weighted score
      is not zero, and the gradient is biased.
    - ``"dreg"``: the score is reparameterised as well (Tucker, Lawson, Gu & Maddison 2019), which
      is unbiased for every bound here. If some of several groups of latents are drawn given others,
      the joint density of all groups replaces q (Bauer & Mnih 2021).
    - ``"score-function"``: no gradient through z, which may be discrete, and a leave-one-out
      baseline from the other samples (Mnih & Rezende 2016: VIMCO).

    To write your own: a frozen dataclass with :meth:`bound`, which reads what it needs from a
    :class:`lowerbound.Draw`. Add a field ``samples`` to let users choose the number of draws. If
    the gradient is not that of the bound, override :meth:`surrogate`; the value that is reported,
    logged and used for selection stays the bound. A field, or a value of a field that is a mapping,
    may be a :class:`lowerbound.objectives.Schedule`; in training, a tensor without dimensions that
    holds the value at the current step is in its place. An objective that trains a module of its
    own, such as a critic, returns it from :meth:`players` and its loss from :meth:`losses`.

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
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> run = lb.fit(vae, WeightedRate(), torch.rand(50, 6), epochs=1, progress=False)
        >>> run.history[0]["train"].keys()
        dict_keys(['bound', 'rate', 'distortion'])
    """

    samples: int = 1
    gradient: Gradient = "pathwise"

    is_bound: ClassVar[bool] = True
    """Whether :meth:`bound` is a lower bound on log p(x). If not, it is reported as a score."""

    linear_in_log_weights: ClassVar[bool] = False
    """Whether the bound is a mean of log weights.

    For a model whose latents belong to all examples together, only then is the mean over batches
    the bound of all data.
    """

    def players(self) -> dict[str, Player]:
        """The modules that the objective owns and trains, by name; none by default."""
        return {}

    def losses(self, draw: Draw) -> dict[str, Tensor]:
        """The loss of each player by its name, ``[B]``; only its own parameters minimise it."""
        return {}

    @abstractmethod
    def bound(self, draw: Draw) -> Tensor:
        """The bound, ``[B]``, in nats."""

    def surrogate(self, draw: Draw) -> Tensor:
        """A value with the gradient to follow, ``[B]``; by default the bound itself."""
        return self.bound(draw)

    def rate(self, draw: Draw) -> Tensor:
        """The rate that is reported, ``[B]``, in nats."""
        return draw.rate

    def group_rates(self, draw: Draw) -> dict[str, Tensor]:
        """The rate of each group of latents by name, ``[B]``, in nats. Their sum is the rate."""
        return {name: latent.rate for name, latent in draw.latents.items()}

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The reported terms, ``[B]`` each: the bound, its rate and its distortion.

        For several groups of latents each rate is also reported, as ``rate`` and the group's name.
        """
        terms = {
            "bound": self.bound(draw),
            "rate": self.rate(draw),
            "distortion": -draw.log_likelihood.mean(0),
        }
        if len(draw.groups) > 1:
            terms |= {f"rate {name}": rate for name, rate in self.group_rates(draw).items()}
        return terms

    def label(self, model: Model) -> str:
        """The name of the value of :meth:`bound` in displays: ``"bound"`` or ``"score"``.

        It is a score if the objective does not bound log p(x), or if a part of the model is not
        normalised, such as a posterior that is a point mass.
        """
        if self.is_bound and not model.unnormalized_parts():
            return "bound"
        return "score"

    def __call__(self, draw: Draw) -> Tensor:
        """The bound's value with the surrogate's gradient, ``[B]``."""
        surrogate = self.surrogate(draw)
        return self.bound(draw).detach() + (surrogate - surrogate.detach())

    def with_samples(self: Self, samples: int) -> Self:
        """The same bound with another number of samples, for evaluations.

        Raises:
            SettingsError: if the bound does not allow that number.
        """
        if is_dataclass(self):
            return replace(cast(Any, self), samples=samples)
        return self.holding({"samples": samples})

    def for_training_on(self: Self, count: int) -> Self:
        """The same objective for training on ``count`` examples, which :func:`lowerbound.fit` uses.

        Override it where the objective depends on the size of the data.
        """
        return self

    def schedules(self) -> dict[str, Schedule]:
        """The settings that change during training, by name.

        Those in a mapping have the names of the field and of the key: ``"group_weights z1"``.
        """
        values: dict[str, Any] = {}
        for part in (*reversed(type(self).__mro__), self):
            values |= vars(part)
        for field, inner in list(values.items()):
            if isinstance(inner, Mapping) and not field.startswith("_"):
                values |= {f"{field} {key}": value for key, value in inner.items()}
        return {name: value for name, value in values.items() if isinstance(value, Schedule)}

    def holding(self: Self, values: Mapping[str, float | Tensor]) -> Self:
        """The same objective with these values in place of its own, such as those of its schedules.

        A tensor without dimensions can be given another value before each step, and a compiled step
        reads it.
        """
        if not values:
            return self
        current = copy(self)
        for name, value in values.items():
            field, _, key = name.partition(" ")
            held: Any = value
            if key:
                held = {**getattr(current, field), key: value}
            object.__setattr__(current, field, held)  # The dataclass is frozen.
        return current


def check_common(objective: Objective) -> None:
    """Check ``samples`` and ``gradient``, and keep ``samples`` as an integer.

    Raises:
        SettingsError: naming the objective and the setting.
    """
    name = type(objective).__name__
    object.__setattr__(
        objective, "samples", check_whole_number(f"{name}: samples", objective.samples)
    )
    if objective.gradient not in get_args(Gradient):
        known = ", ".join(map(repr, get_args(Gradient)))
        raise SettingsError(
            f"{name}: gradient={objective.gradient!r} is unknown; choose one of {known}"
        )


def check_types(name: str, model: Any, objective: Any) -> None:
    """Check that the arguments are a model and an objective, in this order.

    Raises:
        SettingsError: naming what was found instead.
    """
    for argument, value, kind in (("model", model, Model), ("objective", objective, Objective)):
        if isinstance(value, kind):
            continue
        found = type(value).__name__
        if isinstance(value, type):
            found = f"the class {value.__name__}; call it: {value.__name__}()"
        elif isinstance(getattr(value, argument, None), kind):
            found = f"{found}; give its {argument}, {found.lower()}.{argument}"
        raise SettingsError(f"{name}: {argument} must be a lowerbound.{kind.__name__}, not {found}")


def check_baseline(name: str, samples: int) -> None:
    """Check that a leave-one-out baseline has another sample to use.

    Raises:
        SettingsError: if a group has only one sample.
    """
    if samples < 2:
        raise SettingsError(
            f"{name}: gradient='score-function' computes the baseline of a sample from the others "
            "of its group, but a group has only one; use samples=2 or more"
        )


def check_plain_weight(draw: Draw, gradient: Gradient) -> None:
    """Check that the weight is a ratio of densities at z, as all gradients but one require.

    Raises:
        UnsupportedError: if some latents are summed out of the weight.
    """
    if draw.weight_term is not None and gradient != "pathwise":
        raise UnsupportedError(
            f"gradient={gradient!r} needs log q(z|x) of everything that the weight depends "
            "on, and this model sums some latents out of it (weight_term); use gradient='pathwise'"
        )
