"""Models: anything with a ``draw``, and what one draw holds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.conditionals import Conditional
from lowerbound.data.examples import Examples
from lowerbound.describe import describable
from lowerbound.distributions import closed_form_kl
from lowerbound.errors import ShapeError, UnsupportedError
from lowerbound.noise import derived_seed

Gradient = Literal["pathwise"]
Value = TypeVar("Value")

# Draws that stand in for a mean without a closed form.
_MEAN_DRAWS = 256

# Numbers held at once by one pass over samples, examples and dimensions outside of training: 2^22 floats are 16 MiB.
_PASS_SIZE = 1 << 22


class _once(Generic[Value]):
    """A property that is computed when first read. Unlike functools.cached_property it holds no lock, so that it compiles."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        if instance is None:
            return cast(Value, self)
        value = self.compute(instance)
        instance.__dict__[self.name] = value
        return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """One pass through a model: ``K`` draws of the latents of ``B`` examples. Each term is computed when first read.

    Args:
        z: the latents, ``[K, B, J]``.
        likelihood_term: computes log p(x given z), ``[K, B]``.
        prior_term: computes log p(z), ``[K, B]``.
        posterior_term: computes log q(z given x), ``[K, B]``.
        q: the posterior q(z given x), batch shape ``[B]``.
        prior: the prior p(z).
        p: the likelihood p(x given z), batch shape ``[K, B]``.
        extra: whatever else an objective of one's own wants to read.
    """

    z: Tensor
    likelihood_term: Callable[[], Tensor]
    prior_term: Callable[[], Tensor]
    posterior_term: Callable[[], Tensor]
    q: Distribution | None = None
    prior: Distribution | None = None
    p: Distribution | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @_once
    def log_likelihood(self) -> Tensor:
        """log p(x given z), ``[K, B]``, in nats."""
        return self.likelihood_term()

    @_once
    def log_prior(self) -> Tensor:
        """log p(z), ``[K, B]``, in nats."""
        return self.prior_term()

    @_once
    def log_q(self) -> Tensor:
        """log q(z given x), ``[K, B]``, in nats."""
        return self.posterior_term()

    @_once
    def log_w(self) -> Tensor:
        """The log importance weights ``log p(x given z) + log p(z) - log q(z given x)``, ``[K, B]``."""
        return self.log_likelihood + self.log_prior - self.log_q

    @_once
    def analytic_rate(self) -> Tensor | None:
        """KL(q(z given x) || p(z)) in closed form, ``[B]``, or ``None`` where none is registered with torch."""
        if self.q is None or self.prior is None:
            return None
        kl = closed_form_kl(self.q, self.prior)
        return None if kl is None else kl.expand(self.z.shape[1:2])

    @_once
    def sampled_rate(self) -> Tensor:
        """The Monte-Carlo estimate ``mean_k [log q(z_k given x) - log p(z_k)]``, ``[B]``."""
        return (self.log_q - self.log_prior).mean(0)

    @property
    def rate(self) -> Tensor:
        """KL(q(z given x) || p(z)), ``[B]``: in closed form where there is one, else sampled."""
        return self.sampled_rate if self.analytic_rate is None else self.analytic_rate


class Model(nn.Module, ABC):
    """Anything that can draw its latents for some data.

    To write your own: subclass and implement :meth:`draw`. Every objective, :func:`lowerbound.fit` and
    :func:`lowerbound.evaluate` then work with it.
    """

    @abstractmethod
    def draw(self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise") -> Draw:
        """``samples`` draws of the latents of a batch ``x``, ``[B, *event]``."""

    def check_data(self, examples: Examples) -> None:
        """Refuse data that the model cannot take, by name, before any work is done.

        Raises:
            ShapeError, DataError: saying what does not fit.
        """
        few = examples.subset(torch.arange(min(2, len(examples)), device=examples.values.device))
        with evaluating(self), seeded(0, device_of(self)):
            for _, x in batches(few, self, seed=0):
                try:
                    self.draw(x)
                except (ShapeError, RuntimeError) as error:
                    reason = str(error).splitlines()[0]
                    raise ShapeError(
                        f"{examples.name}: {len(examples)} examples of shape {examples.shape} do not go through the model "
                        f"(tried with {len(few)}): {reason}. Check the shapes that its networks declare; one of your own that "
                        "takes [N, ...] only needs lowerbound.flatten_leading"
                    ) from error


@describable
class LatentModel(Model):
    r"""The latent-variable model :math:`p(x, z) = p(z)\, p(x \mid z)` with an amortised posterior :math:`q(z \mid x)`.

    Kingma & Welling 2013. Each part is a module whose ``forward`` returns a ``torch.distributions.Distribution``; any
    three that fit make a model.

    Args:
        prior: p(z), given nothing.
        posterior: q(z given x), given ``[B, *event]``.
        likelihood: p(x given z), given ``[K, B, J]``.

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     prior=lb.StandardNormal(2),
        ...     posterior=lb.Gaussian(lb.mlp((1, 8, 8), 32, 4)),
        ...     likelihood=lb.Bernoulli(lb.mlp(2, 32, (1, 8, 8))),
        ... )
        >>> vae.draw(torch.zeros(5, 1, 8, 8), samples=3).log_w.shape
        torch.Size([3, 5])
        >>> vae.sample(4).shape, vae.encode(torch.zeros(5, 1, 8, 8)).shape
        (torch.Size([4, 1, 8, 8]), torch.Size([5, 2]))
    """

    def __init__(self, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood

    def draw(self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise") -> Draw:
        """``samples`` draws from q(z given x), and the terms of the bound at them.

        Args:
            x: data, ``[B, *event]``.
            samples: K.
            gradient: ``"pathwise"``: through the reparameterised draws.

        Raises:
            UnsupportedError: if the posterior cannot be reparameterised, or for an unknown gradient.
            ShapeError: if the parts do not fit each other or the data.
        """
        if gradient != "pathwise":
            raise UnsupportedError(f"gradient={gradient!r} is unknown; LatentModel knows 'pathwise'")
        q, prior = self.posterior(x), self.prior()
        z, posterior_term = _draw_and_score(q, samples)
        p = self.likelihood(z)
        _check_fit(q, prior, p, x, samples)
        return Draw(
            z=z,
            likelihood_term=lambda: p.log_prob(x),
            prior_term=lambda: prior.log_prob(z),
            posterior_term=posterior_term,
            q=q,
            prior=prior,
            p=p,
        )

    def check_data(self, examples: Examples) -> None:
        """Refuse data of the wrong shape, or outside of the likelihood's support, before any work is done.

        Raises:
            ShapeError, DataError: saying what does not fit, and where.
        """
        super().check_data(examples)
        check = getattr(self.likelihood, "check_data", None)
        if check is not None and getattr(check, "__func__", None) is not Conditional.check_data:
            for rows, x in batches(examples, self, seed=0):
                check(x, rows, examples.name)

    @torch.no_grad()
    def sample(self, count: int, *, mean: bool = False, seed: int | None = None) -> Tensor:
        """Draws of data: z from the prior, then x from p(x given z).

        Args:
            count: how many.
            mean: give the mean of p(x given z) instead of a draw from it, as pictures in papers do.
            seed: makes the draws reproducible, and leaves torch's own generator alone.

        Returns:
            ``[count, *event]``.
        """
        with evaluating(self), seeded(None if seed is None else derived_seed(seed, "sample"), device_of(self)):
            z = self.prior().sample((count,))
            return torch.cat([self._observe(part, mean) for part in z.split(self._examples_per_pass(z))])

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x given z), ``[N, *event]``, for latents ``[N, J]``."""
        z = z.to(device_of(self), dtype_of(self))
        with evaluating(self):
            return torch.cat([self._observe(part, mean=True) for part in z.split(self._examples_per_pass(z))])

    @torch.no_grad()
    def encode(self, data: Any) -> Tensor:
        """The mean of q(z given x), ``[N, J]``: the same at every call.

        A posterior without a mean in closed form, such as a flow, is averaged over 256 draws from a fixed seed.

        Args:
            data: examples, an array or a tensor, ``[N, *event]``.
        """
        with evaluating(self):
            return torch.cat([_mean(self.posterior(x)) for _, x in batches(data, self, seed=0)])

    @torch.no_grad()
    def reconstruct(self, data: Any) -> Tensor:
        """The mean of p(x given z) at the mean of q(z given x), ``[N, *event]``: the same at every call."""
        return self.decode(self.encode(data))

    def _observe(self, z: Tensor, mean: bool) -> Tensor:
        p = self.likelihood(z[None])
        return (_mean(p) if mean else p.sample())[0]

    def _examples_per_pass(self, z: Tensor) -> int:
        p = self.likelihood(z[None, :1])
        return examples_per_pass(math.prod(p.event_shape))


def _draw_and_score(q: Distribution, samples: int) -> tuple[Tensor, Callable[[], Tensor]]:
    """``[K, B, J]`` draws of z, and log q at them: in the same pass where the distribution offers it, as flows do."""
    if not q.has_rsample:
        raise UnsupportedError(
            f"the posterior returned {type(q).__name__}, which cannot be reparameterised, so there is no pathwise gradient; "
            "use a posterior with rsample, such as Gaussian"
        )
    together = getattr(q, "rsample_and_log_prob", None)
    if together is None:
        z = q.rsample(torch.Size((samples,)))
        return z, lambda: q.log_prob(z)
    z, log_q = together((samples,))
    return z, lambda: log_q


def _check_fit(q: Distribution, prior: Distribution, p: Distribution, x: Tensor, samples: int) -> None:
    """Shapes broadcast silently, so each mismatch is refused by name."""
    for role, part in (("posterior", q), ("prior", prior), ("likelihood", p)):
        if not isinstance(part, Distribution):
            raise UnsupportedError(
                f"the {role} returned a {type(part).__name__}; its forward must return a torch.distributions.Distribution"
            )
    if q.batch_shape != x.shape[:1]:
        raise ShapeError(
            f"the posterior returned batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)} for "
            f"{len(x)} examples; expected the batch shape ({len(x)},): see torch.distributions.Independent"
        )
    if q.event_shape != prior.event_shape:
        raise ShapeError(
            f"the posterior is over events of shape {tuple(q.event_shape)} and the prior over {tuple(prior.event_shape)}"
        )
    if p.event_shape != x.shape[1:] or p.batch_shape != (samples, len(x)):
        raise ShapeError(
            f"the likelihood is over events of shape {tuple(p.event_shape)} with batch shape {tuple(p.batch_shape)}, but "
            f"the data has events of shape {tuple(x.shape[1:])}, and the batch shape is to be {(samples, len(x))}: "
            "samples, examples (torch.distributions.Independent makes batch dimensions part of the event)"
        )


def _mean(distribution: Distribution) -> Tensor:
    """The mean, or where it has no closed form the average of draws that are the same at every call."""
    try:
        return distribution.mean
    except NotImplementedError:
        first = distribution.sample()
        with seeded(0, first.device):
            return distribution.sample(torch.Size((_MEAN_DRAWS,))).mean(0)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters live; the CPU for a model that has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """The floating type of a model's data: that of its parameters, but float32 at least."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.promote_types(own, torch.float32)


def examples_per_pass(numbers_per_example: int) -> int:
    """How many examples to take at once outside of training, so that memory stays bounded."""
    return max(1, min(1024, _PASS_SIZE // max(1, numbers_per_example)))


def batches(
    data: Any, model: nn.Module, *, seed: int, samples: int = 1, batch_size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of row numbers ``[B]`` and examples ``[B, *event]``, in order, with the examples' own noise in force for each.

    Args:
        data: examples, an array or a tensor.
        model: whose device and floating type to use.
        seed: of the noise, see :mod:`lowerbound.noise`.
        samples: how many draws each example will be given; chooses the batch size.
        batch_size: overrides that choice.
    """
    examples = Examples.of(data)
    device, dtype = device_of(model), dtype_of(model)
    size = batch_size or examples_per_pass(samples * math.prod(examples.shape))
    numbers = torch.arange(len(examples)) if examples.rows is None else examples.rows
    for index in torch.arange(len(examples)).split(size):
        rows = numbers[index]
        with noise.per_example(seed, rows):
            yield rows, examples.batch(index, dtype).to(device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and no gradients are recorded; afterwards it is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Within the block torch draws from ``seed``, and afterwards as if nothing had been; without a seed, no block."""
    if seed is None:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        # Not torch.manual_seed, which would also seed devices whose state is not put back.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
