"""Plain variational inference: a posterior for any log joint density."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals import ByVariable
from lowerbound.conditionals.variables import Variable, Variables
from lowerbound.data.examples import Examples
from lowerbound.distributions import Lebesgue
from lowerbound.errors import (
    NonFiniteError,
    SettingsError,
    ShapeError,
    UnsupportedError,
)
from lowerbound.models.base import Model
from lowerbound.models.density import (
    OfAll,
    called,
    explain_values,
    refuse_mixed_draws,
    refuse_other_arguments,
)
from lowerbound.models.draw import Draw
from lowerbound.models.pathfinder import pathfinder
from lowerbound.models.plan import TrainingPlan
from lowerbound.models.sampling import Gradient, sampler, scored, stop_parameter_gradients, weighed
from lowerbound.runtime import noise
from lowerbound.runtime.devices import device_of, dtype_of
from lowerbound.runtime.memory import Largest, rows_per_pass
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import whole_number

# What a message calls data where there are none.
_NOTHING = "no data"

# Draws from which one is taken, where draws are taken in proportion to their weights.
_OVERDRAWN = 25

# Steps of an epoch where the log joint stores its own data.
_STEPS_IN_EPOCH = 100

# Draws from which it is seen how many numbers one takes.
_LOOKED_AT = 4


class LogJoint(Model):
    r"""A posterior :math:`q(z)` for the unknowns of any log joint density :math:`\log p(x, z)`.

    The unknowns are named variables of any shape and support. The posterior lives on a vector :math:`u` of real numbers, which
    torch's bijections take to values :math:`z = T(u)`, and every figure is that of the density of :math:`u`:

    .. math:: \log p(x, T(u)) + \log \left| \det \tfrac{\partial T}{\partial u} \right|

    so the bound is one of the evidence :math:`\log p(x)` itself, in whatever coordinates (Kucukelbir et al. 2017). Objectives,
    training and evaluation are those of the auto-encoder, which is the amortised special case of this; but where data come in batches, only
    the ELBO can be trained by them. The bound is of all data together, in nats; ``rate`` is minus the entropy of q, and ``distortion`` minus
    the expected log joint.

    Args:
        log_joint: called with a value for each variable by its name, ``[K, *shape]``, K draws at once; gives the log joint density
            of each, ``[K]``. With ``size``, it is called with a batch of examples
            ``[B, *event]`` and the factor ``size / B`` first, with which it has to multiply the log likelihood of the batch.
        posterior: q(u): a module that is given nothing and returns a distribution over ``[J]``, or a function from J to one,
            such as :func:`mean_field`, :func:`full_rank`, ``lambda size: zuko.flows.NSF(size)``, or :class:`ByVariable`.
        variables: their shapes by name, or :class:`Variable` where not every real number is a value.
        size: how many examples there are, if the log joint is given them in batches.
        vectorized: whether the log joint takes K draws at once; if not, it is written for one, ``[*shape]`` to a number, and
            ``torch.vmap`` does the rest.

    Raises:
        SettingsError: if the variables or the posterior cannot be used, or the log joint takes others.

    Example:
        >>> import lowerbound as lb
        >>> from torch.distributions import Normal
        >>> x = torch.tensor([1.2, 0.8, 1.0])
        >>> def log_joint(mean):  # mean ~ N(0, 1), x ~ N(mean, 1)
        ...     return Normal(0.0, 1.0).log_prob(mean) + Normal(mean[:, None], 1.0).log_prob(x).sum(-1)
        >>> model = LogJoint(log_joint, lb.full_rank, {"mean": ()})
        >>> run = lb.fit(model, lb.ELBO(samples=10), steps=500, learning_rate=0.05, progress=False)
        >>> exact = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1)  # log p(x) in closed form
        >>> abs(lb.evaluate(model, lb.ELBO(samples=100)).mean - float(exact.log_prob(x))) < 0.05
        True
    """

    log_likelihood_name = "the log joint"
    centre: Tensor
    spread: Tensor

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
        self.size = None if size is None else whole_number("LogJoint: size", size)
        self.vectorized = vectorized
        self.numbers: int | None = (
            None  # in the largest tensor that a draw takes, once that has been looked at
        )
        self.posterior = _made(posterior, self.variables)
        refuse_other_arguments(log_joint, self.variables.parts, 0 if size is None else 2)
        self.register_buffer("centre", torch.zeros(self.variables.size))
        self.register_buffer("spread", torch.ones(self.variables.size))

    def examples(self, data: Any, *, name: str = "data", count: int = 1) -> Examples:
        """The data; where the log joint holds them itself, ``count`` repetitions of nothing, each with draws of its own.

        Raises:
            SettingsError: if data are missing, or there should be none.
        """
        if self.size is not None:
            examples = super().examples(data, name=name)
            if len(examples) != self.size:
                raise SettingsError(
                    f"{name}: {len(examples)} examples, but this log joint was made for size={self.size}, by which it scales a batch"
                )
            return examples
        if data is None:
            return Examples(torch.zeros(count, 1), name=_NOTHING)
        if isinstance(data, Examples) and data.name == _NOTHING:
            return data
        raise SettingsError(
            f"{name}: this log joint holds its data itself, so pass none; or give LogJoint(..., size=N) a log joint of "
            "(batch, scale, **variables)"
        )

    def training_plan(self, data: Any) -> TrainingPlan:
        """An epoch of 100 steps for a log joint that stores its data, and batches for another one."""
        plan = TrainingPlan(
            self.examples(data, name="training data", count=_STEPS_IN_EPOCH),
            learning_rate=0.05,
            shown=(("expected log joint", "distortion", -1), ("entropy", "rate", -1)),
        )
        if self.size is None:
            return replace(
                plan,
                batch_size=1,
                why_no_batch_size="this log joint stores its own data. The objective's samples are the "
                "number of draws in a step, and LogJoint(..., size=N) takes data in batches",
                why_no_validation="this log joint stores its own data, so there is nothing to hold out",
                stays_on_device=True,
            )
        return replace(
            plan,
            needs_linear_objective=True,
            why_no_validation=f"LogJoint(size={self.size}) trains on all {self.size} examples, so "
            "validation data is not supported",
        )

    def for_evaluation(self, data: Any, *, repetitions: int = 1) -> tuple[LogJoint, Examples]:
        """A log joint that stores all of the data, and repetitions with draws of their own.

        Raises:
            SettingsError: if data are missing, or the log joint stores its own.
        """
        if self.size is not None:
            return self.holding(data).for_evaluation(None, repetitions=repetitions)
        self.examples(data)  # refuses other data than its own
        return self, self.examples(None, count=repetitions)

    def holding(self, data: Any) -> LogJoint:
        """The same model with the same posterior, not a copy of it, whose log joint holds all data instead of getting them in batches.

        Args:
            data: all examples.

        Raises:
            SettingsError: if it holds its data already, or these are not as many as it was made for.
        """
        examples = self.examples(data)
        rows = torch.arange(len(examples))
        with noise.per_example(0, rows):
            x = examples.batch(rows, dtype_of(self)).to(device_of(self))
        whole = LogJoint(
            OfAll(self.log_joint, x), self.posterior, self.variables.parts, None, self.vectorized
        )
        whole.centre, whole.spread, whole.training = self.centre, self.spread, self.training
        return whole

    def numbers_per_draw(self, examples: Examples) -> int:
        """As many as the largest tensor of the log joint has for a draw, which is looked at once; and all variables at least."""
        if self.numbers is None and self.size is None:
            with evaluating(self), seeded(0, device_of(self)), Largest() as largest:
                self.draw(self.repetition, _LOOKED_AT).log_likelihood  # noqa: B018
            self.numbers = -(-largest.numbers // _LOOKED_AT)
        return max(self.variables.size, self.numbers or 0)

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
            ShapeError: if it does not give one number for each draw, or mixes the draws.
            SettingsError: if gradients are recorded, and it has none for its variables.
        """
        draw = self.draw(x, samples, gradient)
        if draw.z.requires_grad and not draw.log_likelihood.requires_grad:
            raise SettingsError(
                "fit: the log joint has no gradient with respect to its variables, so the posterior "
                "cannot learn. Compute it from them with torch, without numpy and .detach(), or take "
                "lb.ELBO(samples=K, gradient='score-function')"
            )
        draw.log_likelihood  # noqa: B018 (computed when it is asked for)
        if self.vectorized:
            data = None if self.size is None else x
            with torch.no_grad():
                refuse_mixed_draws(lambda u: self._log_joint(u, data), self.draw(x, 2).z[:, 0])
        return draw

    @property
    def repetition(self) -> Tensor:
        """What stands for the data in one pass of a log joint that holds them itself, ``[1, 1]``."""
        return torch.zeros(1, 1, dtype=dtype_of(self), device=device_of(self))

    def draw(  # type: ignore[override]  # it needs no fields, so it is given none
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise"
    ) -> Draw:
        """``samples`` draws from q, and the log joint at them.

        Args:
            x: a batch of examples, which share their draws; or repetitions, each with draws of its own.
            samples: K.
            gradient: which way the gradient takes to the posterior, see :class:`lowerbound.Objective`.

        Raises:
            UnsupportedError: if the posterior does not allow that gradient, by name.
            ShapeError: if the log joint does not give one number for each draw.
        """
        q = self.posterior()
        if not isinstance(q, Distribution) or q.event_shape != (self.variables.size,):
            raise ShapeError(
                f"LogJoint: the posterior gives {_shown(q)}, but {', '.join(self.variables.parts)} are "
                f"{self.variables.size} numbers; make it over vectors of that size"
            )
        alone = self.size is None
        if alone:
            q = q.expand(Size((len(x),)))
        with noise.for_foreign(samples, len(x)):
            u, posterior_term = sampler(q, gradient)(q, Size((samples,)))
        if not alone:  # a batch of examples shares its draws
            u = u[:, None].expand(samples, len(x), -1)
        prior = Lebesgue(self.variables.size)

        def shared(term: Tensor) -> Tensor:
            return term if alone else term[:, None].expand(samples, len(x))

        def of(q: Distribution, u: Tensor) -> Tensor:
            return shared(scored(q, u if alone else u[:, 0]))

        return Draw(
            z=u,
            likelihood_term=lambda: (
                self._log_joint(u, None) if alone else shared(self._log_joint(u[:, 0], x))
            ),
            prior_term=lambda: prior.log_prob(u),
            posterior_term=lambda: shared(posterior_term()),
            stopgrad_parameters_term=lambda: of(stop_parameter_gradients(q, self.posterior), u),
            stopgrad_z_term=lambda: of(q, u.detach()),
            q=q,
            prior=prior,
        )

    def _log_joint(self, u: Tensor, x: Tensor | None) -> Tensor:
        """log p(x, T(u)) with the volume's change, ``[*leading]`` for ``[*leading, J]``."""
        leading = u.shape[:-1]
        values, log_det = self.values(u.reshape(-1, u.shape[-1]))
        given = () if x is None else (x, cast(int, self.size) / len(x))
        value = called(self.log_joint, given, values, vectorized=self.vectorized)
        if not isinstance(value, Tensor) or value.shape != log_det.shape:
            found = (
                f"the shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise ShapeError(
                f"LogJoint: the log joint gave {found} for {len(log_det)} draws, expected ({len(log_det)},): one number for each draw. "
                "Its arguments have the draws as first dimension; sum over all others, or write it for one draw and pass vectorized=False"
            )
        return (value + log_det).reshape(leading)

    def explain_non_finite(self, draw: Draw, too_long: str) -> tuple[str, str]:
        """Where the log joint is not finite, and the remedy."""
        broken = ~draw.log_likelihood.isfinite()
        if bool(broken.any()):
            return explain_values(self.values(draw.z[broken][:1])[0])
        return (
            too_long,
            "begin with model.start(), or take a smaller learning_rate or clip_norm=1.0",
        )

    def start(
        self,
        paths: int = 4,
        *,
        at: Mapping[str, Any] | None = None,
        spread: float = 1.0,
        seed: int = 0,
    ) -> LogJoint:
        """Standardise the posterior's space: centre and spread of the best Gaussian along paths to modes (Pathfinder, Zhang et al. 2022).

        One step size then suits all variables, however far from 0 and on whatever scales they are. Whatever the posterior's family, q
        becomes that Gaussian without its correlations if q is N(0, I), as it is before training. See :func:`lowerbound.models.pathfinder.pathfinder`.

        Args:
            paths: how many, from different points; each costs some hundred evaluations of the log joint and its gradient.
            at: a value for each variable, to start there instead of looking for a place.
            spread: the standard deviation about ``at``, in unconstrained coordinates.
            seed: of those points, and of the draws that tell which Gaussian is best.

        Returns:
            This model.

        Raises:
            SettingsError, ShapeError: if ``at`` lacks a variable, has another shape or an impossible value, or the spread is not positive.
            UnsupportedError: if the log joint is given its data in batches; start ``model.holding(data)``, which has the same posterior.
            NonFiniteError: if no path finds a point at which the log joint is finite.

        Example:
            >>> import lowerbound as lb
            >>> from torch.distributions import Normal
            >>> far = lambda mass: Normal(5000.0, 300.0).log_prob(mass)
            >>> model = lb.LogJoint(far, lb.mean_field, {"mass": ()}).start()
            >>> abs(lb.evaluate(model, lb.ELBO(samples=10)).mean) < 0.1  # log 1 = 0, before any training
            True
        """
        paths = whole_number("start: paths", paths)
        if not 0 < spread < math.inf:
            raise SettingsError(f"start: spread={spread!r} must be positive and finite")
        if at is None:
            with evaluating(self), seeded(seed, device_of(self)):
                centre, scale = pathfinder(
                    self._plain_density, self.variables.size, paths, seed=seed
                )
        else:
            centre, scale = self.variables.point(at), torch.tensor(spread)
        self.centre.copy_(centre)
        self.spread.copy_(scale)
        return self

    def _plain_density(self, point: Tensor) -> Tensor:
        """The log joint at real numbers that stand for the variables, whatever centre and spread are."""
        self._refuse_batches("start")
        return self._log_joint((point.to(self.centre) - self.centre) / self.spread, None)

    def log_density(self, u: Tensor) -> Tensor:
        """The log joint at points of the posterior's space, with the change of volume: ``[*leading]`` for ``[*leading, J]``, in nats.

        Raises:
            UnsupportedError: if the log joint is given its data in batches; ask ``model.holding(data)``.
        """
        self._refuse_batches("log_density")
        return self._log_joint(u, None)

    def _refuse_batches(self, name: str) -> None:
        if self.size is not None:
            raise UnsupportedError(
                f"{name}: needs all data at once, and this log joint is given them in batches; use model.holding(data), which has the same posterior"
            )

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The variables' values by name, ``[*leading, *shape]``, at points of the posterior's space, ``[*leading, J]``.

        Its points are standardised: real numbers are ``centre + spread * u``, which :meth:`start` chooses.

        Returns:
            The values, and the log absolute determinant of their change with u, ``[*leading]``.
        """
        values, log_det = self.variables.values(self.centre + self.spread * u)
        return values, log_det + self.spread.log().sum()

    @torch.no_grad()
    def posterior_sample(
        self, count: int, *, resample: bool = False, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draws from q, ``[count, *shape]`` by name of the variable.

        Args:
            count: how many.
            resample: take them from many more draws in proportion to their importance weights, without replacement, which
                mends much of what q gets wrong (Yao et al. 2018). Needs a log joint that holds its data itself.
            seed: makes the draws reproducible, and leaves torch's own generator alone.

        Raises:
            SettingsError: if there are to be none.
            UnsupportedError: if they are to be resampled, but a batch of data is needed for the weights.
            NonFiniteError: if too few draws have a weight, or one has an infinite weight.
        """
        count = whole_number("posterior_sample: count", count)
        with (
            evaluating(self),
            seeded(None if seed is None else derived_seed(seed, "posterior"), device_of(self)),
        ):
            if not resample:
                return self.values(self.posterior().sample(Size((count,))))[0]
            self._refuse_batches("posterior_sample(resample=True)")
            u, finite = self._heaviest(count)
            if finite < count:
                raise NonFiniteError(
                    f"posterior_sample: fewer than {count} of {_OVERDRAWN * count} draws have a finite log joint. Likely cause: a posterior that lies "
                    "where the log joint is not a number. Remedy: train it longer, or look at the log joint",
                    step=0,
                    term="log_w",
                    tensor="the log joint",
                )
            return self.values(u)[0]

    def _heaviest(self, count: int) -> tuple[Tensor, int]:
        """``count`` of 25 times as many draws, in proportion to their weights, and how many of all have a finite one.

        The largest of log w plus Gumbel noise are draws without replacement (Efraimidis & Spirakis 2006), a chunk at a time.
        """
        keys, u, finite = torch.empty(0), torch.empty(0), 0
        whole, chunk = _OVERDRAWN * count, rows_per_pass(self.numbers_per_draw(self.examples(None)))
        for start in range(0, whole, chunk):
            draw = self.draw(self.repetition, min(chunk, whole - start))
            weights = weighed(draw.log_w[:, 0])
            finite += int(weights.isfinite().sum())
            key = weights - torch.empty_like(weights).exponential_().log()
            keys, u = (
                torch.cat([keys.to(key), key]),
                torch.cat([u.reshape(-1, self.variables.size).to(draw.z), draw.z[:, 0]]),
            )
            best = keys.topk(min(count, len(keys))).indices
            keys, u = keys[best], u[best]
        return u, finite


def _made(posterior: Any, variables: Variables) -> nn.Module:
    made = posterior
    if isinstance(posterior, ByVariable):
        made = posterior.over(variables)
    elif not isinstance(posterior, nn.Module):
        if not callable(posterior):
            raise SettingsError(
                f"LogJoint: posterior must be a module or a function from the number of dimensions to one, not {type(posterior).__name__}"
            )
        made = posterior(variables.size)
    if not isinstance(made, nn.Module):
        raise SettingsError(
            f"LogJoint: posterior({variables.size}) gave {type(made).__name__}, not a torch.nn.Module"
        )
    return made


def _shown(q: Any) -> str:
    return (
        f"a {type(q).__name__} over {tuple(q.event_shape)}"
        if isinstance(q, Distribution)
        else type(q).__name__
    )
