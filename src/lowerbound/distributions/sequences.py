"""Sequences of codes, each of which depends on the codes before it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from lowerbound.distributions.supports import Grid, Support, Values
from lowerbound.runtime import noise


class CodePredictor(Protocol):
    """What predicts each code of a sequence from an input and from the codes before it."""

    length: int
    """The number of codes of a sequence."""

    levels: int
    """The number of values of a code."""

    def predict_all(self, given: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code given those before it.

        The inputs are ``[*batch, J]`` and the codes, int64, ``[*batch, T]``; the result is
        ``[*batch, T, V]``. The code at a position must not change the logits at that position or
        before it.
        """

    def begin(self, given: Tensor) -> Any:
        """The state before the first code, for inputs ``[*batch, J]``."""

    def predict_next(self, state: Any, previous: Tensor | None) -> tuple[Tensor, Any]:
        """Logits of the next code, ``[*batch, V]``, given the previous one, and the next state."""


class CodeSequence(Distribution):
    r"""Sequences of ``T`` codes, whose probability is a product of conditional probabilities.

    .. math:: \log p(x) = \sum_{t=1}^{T} \log p(x_t \mid x_1, \dots, x_{t-1})

    With an ``end`` code, sequences have different lengths: after the first ``end`` all codes are
    ``end``, with probability 1. So the end is scored once, padding costs nothing, and the
    probabilities of all arrays of ``T`` codes still sum to 1.

    ``log_prob`` computes all factors at once, from the sequence itself ("teacher forcing"); draws
    are made one code after the other. They come from :mod:`lowerbound.runtime.noise`, so an
    evaluation does not depend on its batches. Codes have no mean and no variance.

    Args:
        predictor: the conditional probabilities.
        given: the predictor's input, ``[*batch, J]``.
        end: the code that ends a sequence, or ``None`` if all sequences have ``T`` codes.

    Example:
        >>> import lowerbound as lb
        >>> p = lb.Autoregressive(lb.recurrent(2, 8, (5, 3)), end=0)(torch.zeros(4, 2))
        >>> type(p).__name__, p.batch_shape, p.event_shape
        ('CodeSequence', torch.Size([4]), torch.Size([5]))
        >>> p.log_prob(torch.tensor([2.0, 0.0, 1.0, 0.0, 0.0]))  # only 0 may follow a 0
        tensor([-inf, -inf, -inf, -inf], grad_fn=<SumBackward1>)
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, predictor: CodePredictor, given: Tensor, end: int | None = None) -> None:
        self.predictor = predictor
        self.given = given
        self.end = end
        super().__init__(given.shape[:-1], Size((predictor.length,)), validate_args=False)

    @property
    def support(self) -> Any:
        """Sequences of codes, with nothing but ``end`` after an ``end``."""
        return CodesUntilEnd(self.predictor.levels, self.end)

    @property
    def mode(self) -> Tensor:
        """The greedy sequence: each code is the most probable one given those before it.

        It need not be the most probable sequence as a whole.
        """
        return self._generate(Size(), lambda position, logits: logits.argmax(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> CodeSequence:
        """The same distribution, repeated over ``batch_shape``."""
        given = self.given.expand(*batch_shape, self.given.shape[-1])
        return CodeSequence(self.predictor, given, self.end)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, T]``, one code after the other."""
        size = Size(sample_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        shape = tuple(self._extended_shape(size))
        u = noise.uniform(shape, axis, dtype=torch.float64, device=self.given.device)

        def choose(position: int, logits: Tensor) -> Tensor:
            cumulative = logits.double().softmax(-1).cumsum(-1)
            code = (cumulative <= u[..., position, None]).sum(-1)
            # Rounding may leave the last cumulative probability below 1, and u above it.
            return code.clamp(max=self.predictor.levels - 1)

        return self._generate(size, choose)

    @torch.no_grad()
    def _generate(self, size: Size, choose: Any) -> Tensor:
        """Generate codes one after the other, each chosen from its position and its logits."""
        given = self.given.expand(size + self.given.shape)
        state, previous = self.predictor.begin(given), None
        codes: list[Tensor] = []
        ended = torch.zeros(given.shape[:-1], dtype=torch.bool, device=given.device)
        for position in range(self.predictor.length):
            logits, state = self.predictor.predict_next(state, previous)
            previous = choose(position, logits)
            if self.end is not None:
                previous = previous.masked_fill(ended, self.end)
                ended = ended | (previous == self.end)
            codes.append(previous)
        return torch.stack(codes, -1).to(self.given.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats, ``[*samples, *batch]``."""
        leading = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        codes = value.long().expand(*leading, value.shape[-1])
        given = self.given.expand(*leading, self.given.shape[-1])
        known = codes.clamp(0, self.predictor.levels - 1)
        logits = self.predictor.predict_all(given, known)
        terms = logits.log_softmax(-1).gather(-1, known.unsqueeze(-1)).squeeze(-1)
        if self.end is not None:
            after_end = find_positions_after(codes, self.end)
            impossible = torch.where(codes == self.end, 0.0, -torch.inf).to(terms.dtype)
            terms = torch.where(after_end, impossible, terms)
        return terms.sum(-1)

    def count_scored(self, value: Tensor) -> Tensor:
        """Count the codes of each sequence up to and including the first ``end``, ``[...]``."""
        if self.end is None:
            return torch.full(value.shape[:-1], value.shape[-1], device=value.device)
        return (~find_positions_after(value.long(), self.end)).sum(-1)


def find_positions_after(codes: Tensor, end: int) -> Tensor:
    """Find the positions after the first ``end`` of each sequence, ``[..., T]``.

    Example:
        >>> find_positions_after(torch.tensor([3, 0, 0, 0]), 0)
        tensor([False, False,  True,  True])
    """
    ends = (codes == end).long()
    return ends.cumsum(-1) - ends > 0


class CodesUntilEnd(Support):
    """Sequences of whole numbers below ``levels``, with nothing but ``end`` after an ``end``.

    Example:
        >>> CodesUntilEnd(5, end=0).check(torch.tensor([[4.0, 0.0, 0.0], [4.0, 0.0, 2.0]]))
        tensor([ True, False])
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, levels: int, end: int | None = None) -> None:
        self.levels = levels
        self.end = end
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each sequence is possible, ``[...]``."""
        inside = (value == value.round()) & (value >= 0) & (value < self.levels)
        if self.end is not None:
            codes = value.long()
            inside = inside & (~find_positions_after(codes, self.end) | (codes == self.end))
        return inside.all(-1)

    @property
    def values(self) -> Values:
        """The codes, which depend on each other if there is an ``end``."""
        joint = None
        if self.end is not None:
            joint = (CodesUntilEnd, self.end)
        return Values(points=Grid(0, self.levels - 1), joint=joint)

    def __repr__(self) -> str:
        text = f"sequences of codes from 0 to {self.levels - 1}"
        if self.end is None:
            return text
        return f"{text} with nothing but {self.end} after the first {self.end}"
