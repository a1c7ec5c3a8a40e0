"""Vectors from a codebook: the point that a quantised encoder chooses, and a prior over codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, register_kl

from lowerbound.distributions.point_mass import PointMass
from lowerbound.distributions.supports import CodeVectors
from lowerbound.runtime import noise

# The number of sums of codes that a search keeps.
_SUMS = 64

# The number of distances that it computes at once.
_MOST_DISTANCES = 1 << 24


class CodePoint(PointMass):
    """All probability on one vector from a codebook at each position of an event.

    Unlike a point among the real vectors it is a probability mass over codes, so a bound with it as
    q is a true bound.

    Args:
        loc: the vectors, ``[*batch, D, *sides]``.
        codes: their numbers, ``[*batch, S, *sides]``: the vector at a position is a sum of S codes.
        count: K, the number of codes from which each is chosen.
        event_dims: the number of dimensions of an event, ``[D, *sides]``.
        errors: the squared distance between the encoder's output and the codes, ``[*batch]``,
            twice: first with the gradient of the output, then with that of the codes. ``None`` if
            the codes are fixed.
        codebook: what owns the codebook, such as the quantiser; ``None`` if that is not known.

    Example:
        >>> q = CodePoint(torch.tensor([[0.5], [3.0]]), torch.tensor([[1], [0]]), count=4)
        >>> q.batch_shape, q.event_shape, q.code_probabilities[0]
        (torch.Size([2]), torch.Size([1]), tensor([[0., 1., 0., 0.]]))
    """

    normalized = True  # a mass

    def __init__(
        self,
        loc: Tensor,
        codes: Tensor,
        count: int,
        *,
        event_dims: int = 1,
        errors: tuple[Tensor, Tensor] | None = None,
        codebook: object = None,
    ) -> None:
        super().__init__(loc, event_dims)
        self.codes = codes
        self.count = count
        self.errors = errors
        self.codebook = codebook

    @property
    def support(self) -> Any:
        """The vectors from the codebook."""
        return CodeVectors(self.event_dims, self.codebook)

    @property
    def code_probabilities(self) -> Tensor:
        """The probability of each code of each unit, ``[*batch, S, *sides, K]``."""
        numbers = torch.arange(self.count, device=self.codes.device)
        return (self.codes.unsqueeze(-1) == numbers).to(self.loc.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CodePoint:
        """The same point, repeated over ``batch_shape``."""
        size = Size(batch_shape)
        errors = self.errors
        if errors is not None:
            errors = errors[0].expand(size), errors[1].expand(size)
        codes = self.codes.expand(size + self.codes.shape[len(self.batch_shape) :])
        return self._replace(self.loc.expand(size + self.event_shape), codes, errors)

    def stop_gradient(self) -> CodePoint:
        """The same point with a stop-gradient."""
        return self._replace(self.loc.detach(), self.codes, None)

    def _replace(
        self, loc: Tensor, codes: Tensor, errors: tuple[Tensor, Tensor] | None
    ) -> CodePoint:
        return CodePoint(
            loc,
            codes,
            self.count,
            event_dims=self.event_dims,
            errors=errors,
            codebook=self.codebook,
        )


class FactorialCodeVectors(Distribution):
    r"""Independent codes at each position of an event, represented by their vectors.

    .. math:: \log p(z) = \sum_u \log p(c_u), \qquad \text{each } c_u \text{ one of } K

    A vector is the sum of S codes, one from each of S tables.

    Args:
        logits: unnormalised log probabilities, ``[*batch, S, *sides, K]``.
        tables: the vectors of the codes, ``[S, K, D]``.
        find: finds the codes ``[*leading, S, *sides]`` of vectors ``[*leading, D, *sides]``.
        event_dims: the number of dimensions of an event, ``[D, *sides]``.
        codebook: what owns the codebook, such as the quantiser; ``None`` if that is not known.

    Example:
        >>> tables = torch.tensor([[[0.0], [1.0], [3.0]]])  # 3 codes of one dimension
        >>> def find(z):
        ...     return (z.unsqueeze(-1) - tables[0].T).abs().argmin(-1)
        >>> p = FactorialCodeVectors(torch.zeros(1, 3), tables, find, event_dims=1)
        >>> p.event_shape, p.mean, p.log_prob(torch.tensor([3.0]))
        (torch.Size([1]), tensor([1.3333]), tensor(-1.0986))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self,
        logits: Tensor,
        tables: Tensor,
        find: Callable[[Tensor], Tensor],
        event_dims: int = 1,
        *,
        codebook: object = None,
    ) -> None:
        self.logits = logits
        self.tables = tables
        self.find = find
        self.event_dims = event_dims
        self.codebook = codebook
        leading = logits.dim() - 1 - event_dims
        event_shape = Size((tables.shape[-1], *logits.shape[leading + 1 : -1]))
        super().__init__(logits.shape[:leading], event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The vectors from the codebook."""
        return CodeVectors(self.event_dims, self.codebook)

    @property
    def code_probabilities(self) -> Tensor:
        """The probability of each code of each unit, ``[*batch, S, *sides, K]``."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The expected vector, ``[*batch, D, *sides]``."""
        return self._sum_over_tables(self.tables)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, ``[*batch, D, *sides]``."""
        centred = self.code_probabilities.unsqueeze(-2) @ self._align_tables(self.tables)
        spread = self._align_tables(self.tables) - centred
        variances = self.code_probabilities.unsqueeze(-2) @ spread.square()
        return self._arrange(variances.squeeze(-2))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FactorialCodeVectors:
        """The same distribution, repeated over ``batch_shape``."""
        own = self.logits.shape[len(self.batch_shape) :]
        logits = self.logits.expand(Size(batch_shape) + own)
        return self._replace(logits, self.tables)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, D, *sides]``, by inverting distribution functions."""
        size = Size(sample_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        probabilities = self.code_probabilities.detach()
        shape = tuple(size) + tuple(probabilities.shape[:-1])
        u = noise.uniform(shape, axis, dtype=probabilities.dtype, device=probabilities.device)
        codes = (probabilities.cumsum(-1) <= u.unsqueeze(-1)).sum(-1)
        # Rounding may leave the last cumulative probability below 1, and u above it.
        return embed_codes(codes.clamp(max=self.logits.shape[-1] - 1), self.tables, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of the codes that are nearest to ``value``, in nats."""
        return self.log_prob_of_codes(self.find(value))

    def log_prob_of_codes(self, codes: Tensor) -> Tensor:
        """The log probability of codes ``[*leading, S, *sides]``, in nats."""
        chosen = self.unit_log_probs(codes)
        return chosen.flatten(chosen.dim() - self.event_dims).sum(-1)

    def unit_log_probs(self, codes: Tensor) -> Tensor:
        """The log probability of each code, in nats, ``[*leading, S, *sides]``."""
        log_probs = self.logits.log_softmax(-1)
        shape = torch.broadcast_shapes(codes.shape, log_probs.shape[:-1])
        log_probs = log_probs.expand(*shape, log_probs.shape[-1])
        return log_probs.gather(-1, codes.expand(shape).unsqueeze(-1)).squeeze(-1)

    def stop_gradient(self) -> FactorialCodeVectors:
        """The same distribution with a stop-gradient on its parameters."""
        return self._replace(self.logits.detach(), self.tables.detach())

    def entropy(self) -> Tensor:
        """In nats, ``[*batch]``."""
        terms = torch.special.entr(self.code_probabilities).sum(-1)
        entropy: Tensor = terms.flatten(terms.dim() - self.event_dims).sum(-1)
        return entropy

    def _replace(self, logits: Tensor, tables: Tensor) -> FactorialCodeVectors:
        return FactorialCodeVectors(
            logits, tables, self.find, self.event_dims, codebook=self.codebook
        )

    def _align_tables(self, tables: Tensor) -> Tensor:
        """Arrange tables as ``[S, *1, K, D]``, which broadcasts with ``[*batch, S, *sides]``."""
        return tables.reshape(len(tables), *(1,) * (self.event_dims - 1), *tables.shape[1:])

    def _sum_over_tables(self, tables: Tensor) -> Tensor:
        vectors = self.code_probabilities.unsqueeze(-2) @ self._align_tables(tables)
        return self._arrange(vectors.squeeze(-2))

    def _arrange(self, vectors: Tensor) -> Tensor:
        """Sum ``[*batch, S, *sides, D]`` over S to events ``[*batch, D, *sides]``."""
        return vectors.sum(-1 - self.event_dims).movedim(-1, -self.event_dims)


class EmbeddedSequence(Distribution):
    r"""A distribution of sequences of codes, represented by the vectors of the codes.

    Args:
        base: the distribution of the codes ``[*batch, T]`` of all tables and positions in order,
            ``T = S * positions``.
        units: ``(S, *sides)``.
        tables: the vectors of the codes, ``[S, K, D]``.
        find: finds the codes ``[*leading, S, *sides]`` of vectors ``[*leading, D, *sides]``.
        codebook: what owns the codebook, such as the quantiser; ``None`` if that is not known.

    Example:
        >>> tables = torch.tensor([[[0.0], [1.0], [3.0]]])  # 3 codes of one dimension
        >>> def find(z):
        ...     return (z.unsqueeze(-1) - tables[0, :, 0]).abs().argmin(-1)
        >>> from lowerbound.distributions import FactorialCodes
        >>> base = FactorialCodes(torch.zeros(3, 2))  # two positions
        >>> p = EmbeddedSequence(base, Size((1, 2)), tables, find)
        >>> p.event_shape, p.log_prob(torch.tensor([[3.0, 0.0]]))  # -2 log 3
        (torch.Size([1, 2]), tensor(-2.1972))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self,
        base: Distribution,
        units: Size,
        tables: Tensor,
        find: Callable[[Tensor], Tensor],
        *,
        codebook: object = None,
    ) -> None:
        self.base = base
        self.units = units
        self.tables = tables
        self.find = find
        self.codebook = codebook
        event_shape = Size((tables.shape[-1], *units[1:]))
        super().__init__(base.batch_shape, event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The vectors from the codebook."""
        return CodeVectors(len(self.units), self.codebook)

    def expand(self, batch_shape: Any, _instance: Any = None) -> EmbeddedSequence:
        """The same distribution, repeated over ``batch_shape``."""
        base = self.base.expand(Size(batch_shape))
        return EmbeddedSequence(base, self.units, self.tables, self.find, codebook=self.codebook)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, D, *sides]``, one code after the other."""
        codes = self.base.sample(Size(sample_shape)).long()
        codes = codes.reshape(*codes.shape[:-1], *self.units)
        return embed_codes(codes, self.tables, len(self.units))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of the codes that are nearest to ``value``, in nats."""
        return self.log_prob_of_codes(self.find(value))

    def log_prob_of_codes(self, codes: Tensor) -> Tensor:
        """The log probability of codes ``[*leading, S, *sides]``, in nats."""
        return self.base.log_prob(codes.flatten(-len(self.units)))


def embed_codes(codes: Tensor, tables: Tensor, event_dims: int) -> Tensor:
    """Sum the vectors of codes ``[*leading, S, *sides]`` to events ``[*leading, D, *sides]``.

    Args:
        codes: from 0 to K - 1.
        tables: the vectors, ``[S, K, D]``.
        event_dims: the number of dimensions of an event.
    """
    stages = codes.unbind(-event_dims)
    chosen = [table[stage] for table, stage in zip(tables, stages, strict=True)]
    return torch.stack(chosen).sum(0).movedim(-1, -event_dims)


def find_nearest(vectors: Tensor, table: Tensor) -> Tensor:
    """The codes ``[...]`` of the table ``[K, D]`` that are nearest to vectors ``[..., D]``."""
    return _compare_distances(vectors, table).argmin(-1)


def _compare_distances(vectors: Tensor, table: Tensor) -> Tensor:
    """Squared distances ``[..., K]``, without the square of the vector: the same for all codes."""
    return table.square().sum(-1) - 2 * (vectors @ table.mT)


def find_codes(z: Tensor, tables: Tensor, event_dims: int) -> Tensor:
    """Find the codes ``[*leading, S, *sides]`` whose vectors add up to ``[*leading, D, *sides]``.

    It is the inverse of :func:`embed_codes`. With several tables the nearest vector of the first
    one need not be among them, so a search keeps the 64 best sums of each number of tables. If a
    vector is not a sum of codes, those with the nearest sum that was kept are returned.

    Args:
        z: the vectors.
        tables: the vectors of the codes, ``[S, K, D]``.
        event_dims: the number of dimensions of an event.

    Example:
        >>> tables = torch.tensor([[[0.0], [1.0]], [[-0.6], [0.6]]])
        >>> find_codes(torch.tensor([0.6]), tables, event_dims=1)  # 0 + 0.6, not 1 - 0.6
        tensor([0, 1])
    """
    vectors = z.movedim(-event_dims, -1)
    sums = _SUMS
    if len(tables) == 1:
        sums = 1
    rows = max(1, _MOST_DISTANCES // (sums * tables.shape[1]))
    some = vectors.reshape(-1, vectors.shape[-1]).split(rows)
    codes = torch.cat([_search_sums(part, tables) for part in some])
    return codes.reshape(*vectors.shape[:-1], len(tables)).movedim(-1, -event_dims)


def _search_sums(vectors: Tensor, tables: Tensor) -> Tensor:
    """Find the codes ``[N, S]`` whose vectors add up to ``[N, D]``."""
    left = vectors.unsqueeze(-2)  # [N, sums, D]
    codes = torch.zeros_like(left[..., :0], dtype=torch.long)
    for number, table in enumerate(tables.unbind(0), 1):
        distances = _compare_distances(left, table)
        if number > 1:  # the sums differ
            distances = distances + left.square().sum(-1, keepdim=True)
        distances = distances.flatten(-2)
        best = distances.argmin(-1, keepdim=True)
        if number < len(tables):
            best = distances.topk(min(_SUMS, distances.shape[-1]), largest=False).indices
        before, code = (best // len(table)).unsqueeze(-1), best % len(table)
        left = left.take_along_dim(before, -2) - table[code]
        codes = torch.cat([codes.take_along_dim(before, -2), code.unsqueeze(-1)], -1)
    return codes.squeeze(-2)


@register_kl(CodePoint, FactorialCodeVectors)  # type: ignore[untyped-decorator]
def _kl_code_point_to_codes(q: CodePoint, p: FactorialCodeVectors) -> Tensor:
    return -p.log_prob_of_codes(q.codes)


@register_kl(CodePoint, EmbeddedSequence)  # type: ignore[untyped-decorator]
def _kl_code_point_to_sequence(q: CodePoint, p: EmbeddedSequence) -> Tensor:
    return -p.log_prob_of_codes(q.codes)
