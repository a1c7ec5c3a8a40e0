"""Noise from the examples' streams for distributions of other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowerbound.runtime.noise.streams import (
    are_per_example,
    find_streams,
    standard_normal,
    uniform,
)


class _ForeignNoise(TorchFunctionMode):
    """Answers torch's requests for noise of a certain leading shape from the examples' streams."""

    def __init__(self, leading: tuple[int, int], *, of_pairs: bool) -> None:
        super().__init__()
        self.leading = leading
        self.answers = _ANSWERS | {torch.multinomial: _MULTINOMIAL[of_pairs]}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = self.answers.get(func)
        if answer is not None and kwargs.keys() <= {"dtype", "device", "replacement"}:
            with torch.DisableTorchFunction():
                drawn = answer(self.leading, *args, **kwargs)
            if drawn is not None:
                return drawn
        return func(*args, **kwargs)


@contextmanager
def for_foreign(samples: int, examples: int, *, of_pairs: bool = False) -> Iterator[None]:
    """Within the block, distributions of other libraries draw from the examples' streams as well.

    The block is for draws ``[samples, examples, ...]`` from a distribution of batch shape
    ``[examples, ...]``, or with ``of_pairs`` for one draw from a distribution of batch shape
    ``[samples, examples, ...]``. Covered are the normal, uniform, exponential, Cauchy, gamma,
    Dirichlet, Bernoulli, binomial, Poisson and multinomial noise that torch's distributions ask
    for, and with them all of torch's distributions except ``VonMises``, and the flows of zuko.
    Nothing changes while no streams are active, as in training.
    """
    if not are_per_example():
        yield
        return
    with _ForeignNoise((samples, examples), of_pairs=of_pairs):
        yield


# Each answer below receives the leading shape (samples, examples) and the arguments of a function
# of torch, and returns the result of that function, or None to let torch compute it.
_Leading = tuple[int, int]


def _fill_like(leading: _Leading, like: Tensor, draw: Any, *parameters: Tensor) -> Tensor | None:
    """Draw values of the shape, type and device of ``like``, by a method of numpy's generators."""
    shape = tuple(like.shape)
    streams = find_streams(shape, 1) if shape[:2] == leading else None
    if streams is None or not all(bool(value.isfinite().all()) for value in parameters):
        return None
    drawn = streams.fill(shape, 1, draw, like.dtype, [value.double() for value in parameters])
    return drawn.to(like.device, like.dtype)


def _find_tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def _make_rand(draw: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    def answer(
        leading: _Leading,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor | None:
        shape = tuple(size[0] if size and isinstance(size[0], Sequence) else size)
        if shape[:2] != leading:
            return None
        dtype = dtype or torch.get_default_dtype()
        return draw(shape, 1, dtype=dtype, device=device or torch.get_default_device())

    return answer


def _make_rand_like(draw: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    def answer(leading: _Leading, like: Tensor) -> Tensor | None:
        return _make_rand(draw)(leading, like.shape, dtype=like.dtype, device=like.device)

    return answer


def _normal_(leading: _Leading, out: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor | None:
    drawn = _make_rand_like(standard_normal)(leading, out)
    if drawn is None:
        return None
    return out.copy_(mean + std * drawn)


def _uniform_(leading: _Leading, out: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor | None:
    drawn = _make_rand_like(uniform)(leading, out)
    if drawn is None:
        return None
    return out.copy_(low + (high - low) * drawn)


def _exponential_(leading: _Leading, out: Tensor, rate: float = 1.0) -> Tensor | None:
    drawn = _fill_like(leading, out, np.random.Generator.standard_exponential)
    if drawn is None:
        return None
    return out.copy_((drawn / rate).clamp(min=_find_tiny(out)))


def _cauchy_(
    leading: _Leading, out: Tensor, median: float = 0.0, sigma: float = 1.0
) -> Tensor | None:
    drawn = _fill_like(leading, out, np.random.Generator.standard_cauchy)
    if drawn is None:
        return None
    return out.copy_(median + sigma * drawn)


def _normal(leading: _Leading, mean: Any, std: Any) -> Tensor | None:
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return None
    drawn = _make_rand_like(standard_normal)(leading, mean)
    if drawn is None:
        return None
    return mean + std * drawn


def _bernoulli(leading: _Leading, chances: Tensor) -> Tensor | None:
    threshold = _make_rand_like(uniform)(leading, chances)
    if threshold is None:
        return None
    return (threshold < chances).to(chances.dtype)


def _poisson(leading: _Leading, rate: Tensor) -> Tensor | None:
    return _fill_like(leading, rate, np.random.Generator.poisson, rate)


def _binomial(leading: _Leading, count: Tensor, chance: Tensor) -> Tensor | None:
    def draw(generator: np.random.Generator, count: Any, chance: Any, size: Any) -> Any:
        return generator.binomial(count.astype(np.int64), chance, size)

    return _fill_like(leading, chance, draw, count, chance)


class _Gamma(torch.autograd.Function):
    """Draws from gamma distributions, with the same implicit gradient as torch's own draws."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, drawn: Tensor) -> Tensor:
        ctx.save_for_backward(concentration, drawn)
        return drawn.view_as(drawn)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * torch._standard_gamma_grad(*ctx.saved_tensors), None


def _gamma(leading: _Leading, concentration: Tensor) -> Tensor | None:
    drawn = _fill_like(leading, concentration, np.random.Generator.standard_gamma, concentration)
    if drawn is None:
        return None
    drawn = drawn.clamp(min=_find_tiny(drawn))
    return cast(Tensor, _Gamma.apply(concentration, drawn))  # type: ignore[no-untyped-call]


def _dirichlet(leading: _Leading, concentration: Tensor) -> Tensor | None:
    # Gamma draws of a small concentration are too small for a float, but their logarithms are not:
    # a draw of concentration a is one of concentration a + 1, times u^(1/a).
    a = concentration.double()
    larger = _fill_like(leading, a, np.random.Generator.standard_gamma, a + 1)
    if larger is None:
        return None
    u = uniform(tuple(a.shape), 1, dtype=a.dtype, device=a.device)
    shares = (larger.log() + torch.log1p(-u) / a).softmax(-1).to(concentration.dtype)
    return shares.clamp(min=_find_tiny(shares))


def _multinomial(
    leading: _Leading, chances: Tensor, count: int, replacement: bool = False
) -> Tensor | None:
    # Rows are examples, each with its own categorical variables; columns are torch's sample shape,
    # whose last dimension counts our samples.
    samples, examples = leading
    rows = len(chances)
    if chances.dim() != 2 or not replacement or count % samples or rows % examples:
        return None
    turns, variables = count // samples, rows // examples
    shape = (samples, examples, turns * variables)
    u = uniform(shape, 1, dtype=torch.float64, device=chances.device)
    columns = u.unflatten(2, (turns, variables)).permute(1, 3, 2, 0)
    return _find_categories(chances, columns.reshape(rows, count))


def _multinomial_of_pairs(
    leading: _Leading, chances: Tensor, count: int, replacement: bool = False
) -> Tensor | None:
    # Rows are pairs of a sample and an example, each with variables of its own.
    rows, pairs = len(chances), math.prod(leading)
    if chances.dim() != 2 or not replacement or rows % pairs:
        return None
    shape = (*leading, rows // pairs * count)
    u = uniform(shape, 1, dtype=torch.float64, device=chances.device)
    return _find_categories(chances, u.reshape(rows, count))


def _find_categories(chances: Tensor, thresholds: Tensor) -> Tensor:
    """Find the category of each threshold in [0, 1), ``[rows, count]``, by inversion."""
    cumulative = chances.double().cumsum(-1)
    shares = cumulative / cumulative[:, -1:]
    return torch.searchsorted(shares, thresholds.contiguous(), right=True)


_ANSWERS: dict[Any, Callable[..., Tensor | None]] = {
    Tensor.normal_: _normal_,
    Tensor.uniform_: _uniform_,
    Tensor.exponential_: _exponential_,
    Tensor.cauchy_: _cauchy_,
    torch.rand: _make_rand(uniform),
    torch.randn: _make_rand(standard_normal),
    torch.rand_like: _make_rand_like(uniform),
    torch.randn_like: _make_rand_like(standard_normal),
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    torch.poisson: _poisson,
    torch.binomial: _binomial,
    torch._standard_gamma: _gamma,
    torch._sample_dirichlet: _dirichlet,
}

_MULTINOMIAL = {False: _multinomial, True: _multinomial_of_pairs}
