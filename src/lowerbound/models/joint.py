"""Plain variational inference: a posterior for any log joint density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.conditionals import ByVariable
from lowerbound.conditionals.variables import Variable, Variables
from lowerbound.data.examples import Examples
from lowerbound.errors import (
    SettingsError,
    UnsupportedError,
)
from lowerbound.models.draw import Draw
from lowerbound.models.joint_posterior import (
    check_posterior_size,
    draw_for_all,
    draw_for_each,
    make_posterior,
)
from lowerbound.models.plan import TrainingPlan
from lowerbound.models.sampling import Gradient
from lowerbound.models.user_log_joint import (
    FullDataLogJoint,
    advise_steps,
    call_log_joint,
    check_arguments,
    check_draws_are_apart,
    check_gradient,
    check_value,
    explain_values,
)
from lowerbound.models.variable_posterior import VariablePosterior
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import TensorSizes
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.renaming import OldAttribute
from lowerbound.settings import check_whole_number

# The name of the empty examples that a log joint gets if it stores its own data.
_NO_DATA = "no data"

# The number of steps of an epoch if the log joint stores its own data.
_STEPS_PER_EPOCH = 100

# The number of draws from which the memory of one draw is measured.
_MEASURED_DRAWS = 4


class LogJoint(VariablePosterior):
    r"""A posterior :math:`q(z)` for the unknowns of any log joint density :math:`\log p(x, z)`.

    The unknowns are named variables of any shape and support. The posterior is over a vector
    :math:`u` of real numbers, which torch's bijections map to values :math:`z = T(u)`. All results
    are for the density of :math:`u`:

    .. math:: \log p(x, T(u)) + \log \left| \det \tfrac{\partial T}{\partial u} \right|

    so the bound is a bound on the evidence :math:`\log p(x)` in any coordinates (Kucukelbir et al.
    2017). Objectives, training and evaluation are those of the auto-encoder, which is the amortised
    special case. If the data come in batches, only the ELBO can train the model. The bound is of
    all data together, in nats; ``rate`` is minus the entropy of q, and ``distortion`` minus the
    expected log joint.

    Args:
        log_joint: takes a value for each variable by its name, ``[K, *shape]``, for K draws at
            once, and returns the log joint density of each draw, ``[K]``. With ``size``, two
            arguments come first: a batch of examples ``[B, *event]`` and the scale ``size / B``, by
            which the function must multiply the log likelihood of the batch.
        posterior: q(u): a module without inputs that returns a distribution over ``[J]``, or a
            function from J to such a module, such as :func:`mean_field`, :func:`full_rank`,
            ``lambda size: zuko.flows.NSF(size)``, or :class:`ByVariable`.
        variables: the shape of each variable by its name, or a :class:`Variable` for one whose
            values are restricted, such as a positive one.
        size: the number of examples, if the log joint gets them in batches.
        vectorized: whether the log joint takes K draws at once. If not, it takes one draw,
            ``[*shape]``, returns a scalar, and is vectorised by ``torch.vmap``.

    Raises:
        SettingsError: if the variables or the posterior cannot be used, or the log joint takes
            other arguments.

    Example:
        >>> import lowerbound as lb
        >>> from torch.distributions import MultivariateNormal, Normal
        >>> x = torch.tensor([1.2, 0.8, 1.0])
        >>> def log_joint(mean):  # mean ~ N(0, 1), x ~ N(mean, 1)
        ...     likelihood = Normal(mean[:, None], 1.0).log_prob(x).sum(-1)
        ...     return Normal(0.0, 1.0).log_prob(mean) + likelihood
        >>> model = LogJoint(log_joint, lb.full_rank, {"mean": ()})
        >>> run = lb.fit(model, lb.ELBO(samples=10), steps=500, learning_rate=0.05, progress=False)
        >>> exact = MultivariateNormal(torch.zeros(3), torch.eye(3) + 1)  # log p(x) in closed form
        >>> abs(lb.evaluate(model, lb.ELBO(samples=100)).mean - float(exact.log_prob(x))) < 0.05
        True
    """

    log_likelihood_name = "the log joint"

    def __init__(
        self,
        log_joint: Callable[..., Tensor],
        posterior: nn.Module | Callable[[int], nn.Module] | ByVariable,
        variables: Mapping[str, Variable | tuple[int, ...] | int],
        size: int | None = None,
        vectorized: bool = True,
    ) -> None:
        super().__init__()
        if not callable(log_joint):
            raise SettingsError(
                f"LogJoint: log_joint must be a function, not {type(log_joint).__name__}"
            )
        self.log_joint = log_joint
        self.variables = Variables(variables)
        self.vectorized = vectorized
        self.numbers: int | None = None  # size of the largest tensor of a draw
        self.posterior = make_posterior(posterior, self.variables)
        self.size: int | None = None
        if size is not None:
            self.size = check_whole_number("LogJoint: size", size)
        check_arguments(log_joint, self.variables.parts, 0 if size is None else 2)
        self.standardise()

    def examples(self, data: Any, *, name: str = "data", count: int = 1) -> Examples:
        """The data, or ``count`` empty examples if the log joint stores its own data.

        Each empty example is a repetition with its own draws.

        Raises:
            SettingsError: if data are missing, or are given to a log joint that stores its own.
        """
        if self.size is not None:
            examples = super().examples(data, name=name)
            if len(examples) != self.size:
                raise SettingsError(
                    f"{name} has {len(examples)} examples, but this log joint was made for "
                    f"size={self.size}; pass all {self.size} examples, or set size={len(examples)}"
                )
            return examples
        if data is None:
            return Examples(torch.zeros(count, 1), name=_NO_DATA)
        if isinstance(data, Examples) and data.name == _NO_DATA:
            return data
        raise SettingsError(
            f"{name}: this log joint stores its own data, so pass no data. To train on batches, "
            "make LogJoint(..., size=N) from a log joint of (batch, scale, **variables)"
        )

    def training_plan(self, data: Any) -> TrainingPlan:
        """An epoch has 100 steps if the log joint stores its data, else one step for each batch."""
        plan = TrainingPlan(
            self.examples(data, name="training data", count=_STEPS_PER_EPOCH),
            learning_rate=0.05,
            shown=(("expected log joint", "distortion", -1), ("entropy", "rate", -1)),
        )
        if self.size is None:
            return replace(
                plan,
                batch_size=1,
                why_no_batch_size="this log joint stores its own data. The objective's samples are "
                "the number of draws in a step, and LogJoint(..., size=N) takes data in batches",
                why_no_validation="this log joint stores its own data, so there is nothing to hold "
                "out",
                stays_on_device=True,
            )
        return replace(
            plan,
            needs_linear_objective=True,
            why_no_validation=f"LogJoint(size={self.size}) trains on all {self.size} examples, so "
            "validation data is not supported",
        )

    def for_evaluation(self, data: Any, *, repetitions: int = 1) -> tuple[LogJoint, Examples]:
        """A log joint that stores all of the data, and repetitions with their own draws.

        Raises:
            SettingsError: if data are missing, or the log joint stores its own.
        """
        if self.size is not None:
            return self.with_all_data(data).for_evaluation(None, repetitions=repetitions)
        self.examples(data)  # refuses data if it stores its own
        return self, self.examples(None, count=repetitions)

    def with_all_data(self, data: Any) -> LogJoint:
        """A model like this one, whose log joint stores all of the data and gets no batches.

        It has the same posterior, which is not copied.

        Args:
            data: all examples.

        Raises:
            SettingsError: if it stores its data already, or the number of examples is not ``size``.
        """
        examples = self.examples(data)
        rows = torch.arange(len(examples))
        with noise.per_example(0, rows):
            x = examples.batch(rows, get_dtype(self)).to(get_device(self))
        whole = LogJoint(
            FullDataLogJoint(self.log_joint, x),
            self.posterior,
            self.variables.parts,
            vectorized=self.vectorized,
        )
        whole.centre, whole.spread, whole.training = self.centre, self.spread, self.training
        whole.optima = self.optima
        return whole

    holding = OldAttribute("with_all_data")

    def numbers_per_draw(self, examples: Examples) -> int:
        """The size of the largest tensor that the log joint makes for a draw, measured once.

        It is at least the total size of the variables.
        """
        if self.numbers is None and self.size is None:
            with evaluating(self), seeded(0, get_device(self)), TensorSizes() as made:
                self.draw(self.repetition, _MEASURED_DRAWS).log_likelihood  # noqa: B018
            self.numbers = -(-made.largest // _MEASURED_DRAWS)
        return max(self.variables.size, self.numbers or 0)

    def unnormalized_parts(self) -> tuple[str, ...]:
        """The posterior and the log joint, if they or modules in them say ``normalized = False``.

        A posterior that is a point, which has no density, is an example.
        """
        roles = {"posterior": self.posterior, "log joint": self.log_joint}
        return tuple(
            f"{role} ({type(part).__name__})"
            for role, part in roles.items()
            if isinstance(part, nn.Module)
            and any(getattr(module, "normalized", True) is False for module in part.modules())
        )

    def likelihood_is_mass(self, examples: Examples) -> None:
        """``None``, because a log joint does not say which part of it is the likelihood."""

    def try_draw(
        self,
        examples: Examples,
        x: Tensor,
        samples: int,
        gradient: Gradient,
        given: Mapping[str, Any],
    ) -> Draw:
        """A first draw.

        Raises:
            LogJointError: if the log joint raises an error.
            ShapeError: if it does not return one value for each draw, or mixes the draws.
            SettingsError: if gradients are recorded, and it has no gradient for its variables.
        """
        draw = self.draw(x, samples, gradient)
        check_gradient(draw.z, draw.log_likelihood)
        if self.vectorized:
            batch: tuple[Any, ...] = ()
            if self.size is not None:
                batch = (x, self.size / len(x))
            with torch.no_grad():
                points = self.draw(x, 2).z[:, 0]
                check_draws_are_apart(lambda u: self._log_joint(u, batch), points)
        return draw

    def draw(  # type: ignore[override]  # it needs no fields, so it is given none
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise"
    ) -> Draw:
        """``samples`` draws from q, and the log joint at them.

        Args:
            x: a batch of examples, which share their draws; or repetitions, each with its own
                draws.
            samples: K.
            gradient: how the posterior gets its gradient, see :class:`lowerbound.Objective`.

        Raises:
            UnsupportedError: if the posterior does not allow that gradient, by name.
            ShapeError: if the log joint does not return one value for each draw.
        """
        q = self.posterior()
        check_posterior_size(q, self.variables)
        size = (samples, len(x))
        if self.size is None:
            return draw_for_each(self.posterior, q, self.log_density, size, gradient)
        batch = (x, self.size / len(x))
        return draw_for_all(self.posterior, q, lambda u: self._log_joint(u, batch), size, gradient)

    def _log_joint(self, u: Tensor, batch: tuple[Any, ...]) -> Tensor:
        """log p(x, T(u)) plus the log determinant, ``[*leading]`` for ``[*leading, J]``."""
        leading = u.shape[:-1]
        values, log_det = self.values(u.reshape(-1, u.shape[-1]))
        value = call_log_joint(self.log_joint, batch, values, vectorized=self.vectorized)
        check_value(value, len(log_det))
        total: Tensor = value + log_det
        return total.reshape(leading)

    def encode(self, data: Any) -> Tensor:
        """Refuse to encode, because examples do not have latents of their own.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "encode: the variables of a log joint belong to all data together; "
            "model.posterior_sample(count) gives draws of them"
        )

    def explain_non_finite(self, draw: Draw, too_long: str) -> tuple[str, str]:
        """The values at which the log joint is not finite, and the remedy."""
        broken = ~draw.log_likelihood.isfinite()
        if bool(broken.any()):
            return explain_values(self.values(draw.z[broken][:1])[0], is_started=self.is_started)
        return too_long, f"{advise_steps(is_started=self.is_started)} or clip_norm=1.0"

    def log_density(self, u: Tensor) -> Tensor:
        """The log joint at points of the posterior's space, plus the log determinant, in nats.

        Args:
            u: ``[*leading, J]``.

        Returns:
            ``[*leading]``.

        Raises:
            UnsupportedError: if the log joint gets its data in batches; ask
                ``model.with_all_data(data)``.
        """
        self.check_all_data("log_density")
        return self._log_joint(u, ())

    def check_all_data(self, name: str) -> None:
        """Check that the log joint gets no batches.

        Raises:
            UnsupportedError: if it does.
        """
        if self.size is not None:
            raise UnsupportedError(
                f"{name} needs all data at once, but this log joint gets them in batches; use "
                "model.with_all_data(data), which has the same posterior"
            )
