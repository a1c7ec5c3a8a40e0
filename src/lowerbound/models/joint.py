"""Plain variational inference: a posterior for any log joint density."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.conditionals import ByVariable
from lowerbound.data.examples import Examples
from lowerbound.distributions import Lebesgue
from lowerbound.errors import NonFiniteError, SettingsError, ShapeError, UnsupportedError
from lowerbound.models.base import Model, device_of, dtype_of, evaluating, seeded
from lowerbound.models.draw import Draw, Gradient
from lowerbound.models.sampling import held, sampler, scored
from lowerbound.noise import derived_seed
from lowerbound.variables import Variable, Variables

# What a message calls data where there are none.
_NOTHING = "no data"

# Draws from which one is taken, where draws are taken in proportion to their weights.
_OVERDRAWN = 25


class LogJoint(Model):
    r"""A posterior :math:`q(z)` for the unknowns of any log joint density :math:`\log p(x, z)`.

    The unknowns are named variables of any shape and support. The posterior lives on a vector :math:`u` of real numbers, which
    torch's bijections take to values :math:`z = T(u)`, and every figure is that of the density of :math:`u`:

    .. math:: \log p(x, T(u)) + \log \left| \det \tfrac{\partial T}{\partial u} \right|

    so the bound is one of the evidence :math:`\log p(x)` itself, in whatever coordinates (Kucukelbir et al. 2017). Objectives,
    training and evaluation are those of the auto-encoder, which is the amortised special case of this; but where data come in batches, only
    the ELBO can be trained by them, and a figure is that of one set of draws for all examples. The bound is of all data
    together, in nats; ``rate`` is minus the entropy of q, and ``distortion`` minus the expected log joint.

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
        SettingsError: if the variables or the posterior cannot be used.

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
            raise SettingsError(f"LogJoint: log_joint must be a function, not {type(log_joint).__name__}")
        self.log_joint = log_joint
        self.variables = Variables(variables)
        self.size = None if size is None else _size(size)
        self.vectorized = vectorized
        self.posterior = _made(posterior, self.variables)

    def examples(self, data: Any, *, name: str = "data", count: int = 1) -> Examples:
        """The data; where the log joint holds them itself, ``count`` repetitions of nothing, each with draws of its own.

        Raises:
            SettingsError: if data are missing, or there should be none.
        """
        if not self.repeats:
            examples = super().examples(data, name=name, count=count)
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

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        """Whether examples are only repetitions, because the log joint holds its data itself."""
        return self.size is None

    @property
    def in_batches(self) -> bool:  # type: ignore[override]
        """Whether the log joint is given its data in batches."""
        return self.size is not None

    def draw(self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise") -> Draw:
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
        alone = self.repeats
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
            likelihood_term=lambda: self._log_joint(u, None) if alone else shared(self._log_joint(u[:, 0], x)),
            prior_term=lambda: prior.log_prob(u),
            posterior_term=lambda: shared(posterior_term()),
            held_posterior_term=lambda: of(held(q, self.posterior), u),
            fixed_point_term=lambda: of(q, u.detach()),
            q=q,
            prior=prior,
        )

    def _log_joint(self, u: Tensor, x: Tensor | None) -> Tensor:
        """log p(x, T(u)) with the volume's change, ``[*leading]`` for ``[*leading, J]``."""
        leading = u.shape[:-1]
        values, log_det = self.variables.values(u.reshape(-1, u.shape[-1]))
        given = () if x is None else (x, cast(int, self.size) / len(x))
        if self.vectorized:
            value = self.log_joint(*given, **values)
        else:
            value = torch.vmap(lambda one: self.log_joint(*given, **one))(values)
        if not isinstance(value, Tensor) or value.shape != log_det.shape:
            found = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"LogJoint: the log joint gave {found} for {len(log_det)} draws, expected ({len(log_det)},): one number for each draw. "
                "Its arguments have the draws as first dimension; sum over all others, or write it for one draw and pass vectorized=False"
            )
        return (value + log_det).reshape(leading)

    @torch.no_grad()
    def posterior_sample(self, count: int, *, resample: bool = False, seed: int | None = None) -> dict[str, Tensor]:
        """Draws from q, ``[count, *shape]`` by name of the variable.

        Args:
            count: how many.
            resample: take them from many more draws in proportion to their importance weights, without replacement, which
                mends much of what q gets wrong (Yao et al. 2018). Needs a log joint that holds its data itself.
            seed: makes the draws reproducible, and leaves torch's own generator alone.

        Raises:
            UnsupportedError: if they are to be resampled, but a batch of data is needed for the weights.
            NonFiniteError: if too few draws have a weight.
        """
        with evaluating(self), seeded(None if seed is None else derived_seed(seed, "posterior"), device_of(self)):
            if not resample:
                return self.variables.values(self.posterior().sample(Size((count,))))[0]
            if self.size is not None:
                raise UnsupportedError(
                    "posterior_sample: resample=True needs the weights of all data at once, and this log joint is given them in batches"
                )
            draw = self.draw(torch.zeros(1, 1, dtype=dtype_of(self), device=device_of(self)), _OVERDRAWN * count)
            weights = draw.log_w[:, 0].double().nan_to_num(nan=-math.inf)
            if int(weights.isfinite().sum()) < count:
                raise NonFiniteError(
                    f"posterior_sample: fewer than {count} of {len(weights)} draws have a finite log joint. Likely cause: a posterior that lies "
                    "where the log joint is not a number. Remedy: train it longer, or look at the log joint",
                    step=0,
                    term="log_w",
                    tensor="the log joint",
                )
            # The largest of log w plus Gumbel noise are draws without replacement (Efraimidis & Spirakis 2006).
            gumbel = -torch.empty_like(weights).exponential_().log()
            return self.variables.values(draw.z[(weights + gumbel).topk(count).indices, 0])[0]


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
        raise SettingsError(f"LogJoint: posterior({variables.size}) gave {type(made).__name__}, not a torch.nn.Module")
    return made


def _size(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SettingsError(
            f"LogJoint: size={size!r} must be a whole number of at least 1: how many examples there are"
        )
    return size


def _shown(q: Any) -> str:
    return f"a {type(q).__name__} over {tuple(q.event_shape)}" if isinstance(q, Distribution) else type(q).__name__
