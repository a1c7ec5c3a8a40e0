"""Posteriors that choose codes: vector quantisation and finite scalar quantisation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric, to_full_precision
from lowerbound.describe import describable
from lowerbound.distributions import CodePoint
from lowerbound.distributions.codes import find_codes, find_nearest
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape, as_shape
from lowerbound.runtime import noise
from lowerbound.settings import check_share, check_whole_number


class Quantizer(Parametric):
    """A posterior that puts all probability on one code at each position, given by a network.

    A network's output is a vector ``[D]``, which has one position, or vectors at the positions of a
    signal or picture, ``[D, *sides]``. The gradient of the quantised output is passed to the
    network's output unchanged (straight-through: Bengio et al. 2013).

    To write your own: subclass, assign the network to ``self.network``, and implement
    ``get_tables``, ``find`` and ``from_parameters``.
    """

    @property
    @abstractmethod
    def units(self) -> int:
        """S, the number of codes that make the vector at one position."""

    @property
    @abstractmethod
    def count(self) -> int:
        """K, the number of codes from which each is chosen."""

    @abstractmethod
    def get_tables(self) -> Tensor:
        """The vectors of the codes, ``[S, K, D]``, in float32 at least."""

    @abstractmethod
    def find(self, z: Tensor) -> Tensor:
        """The codes ``[*leading, S, *sides]`` of vectors ``[*leading, D, *sides]``."""


@describable
class VectorQuantized(Quantizer):
    r"""Vectors from a learned codebook, nearest to a network's output: vector quantisation.

    .. math:: c = \arg\min_k \lVert e - t_k \rVert, \qquad z = t_c

    With several ``stages`` each quantises the residual of the stages before, and z is the sum of
    their vectors. As a posterior q it is a probability mass on one code, so with a prior over codes
    such as :class:`lowerbound.CodePrior` the bound is a true one. Under a uniform prior the rate is
    log K for each code. Train it with :class:`lowerbound.QuantizedELBO`, which keeps the network's
    outputs near the codes.

    By default the codes are moving averages of the outputs that chose them, updated whenever the
    module is called in training mode. They are buffers, as running statistics are, so a refused or
    interrupted step leaves them as they were, and they are saved. They do not change either if the
    network is frozen by ``requires_grad_(False)``. A code that is hardly used is replaced by an
    output of the network, chosen at random from the batch. In this way the first batch gives all
    codes their first values.

    Args:
        network: from the input to e, ``[*leading, D]`` or ``[*leading, D, *sides]``. It must
            declare its ``output_shape``.
        codes: K, the number of codes of each stage.
        stages: S, the number of stages.
        decay: of the moving averages in one step; ``None`` for codes that are trained by gradient
            descent.
        revive: a code is replaced if the moving average of its use falls below this share of the
            average use of all codes; 0 to leave such codes as they are.

    Raises:
        SettingsError: for settings that are out of range.
        ShapeError: if the network does not declare its ``output_shape``.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning";
    Razavi et al. 2019, "Generating diverse high-fidelity images with VQ-VAE-2" (moving averages);
    Dhariwal et al. 2020, "Jukebox" (revival); Zeghidour et al. 2021, "SoundStream" (stages).

    Example:
        >>> import torch, lowerbound as lb
        >>> posterior = lb.VectorQuantized(lb.mlp((1, 8, 8), 32, (3, 2, 2)), codes=16)
        >>> vae = lb.LatentModel(
        ...     prior=lb.CodePrior(posterior),
        ...     posterior=posterior,
        ...     likelihood=lb.Bernoulli(lb.mlp((3, 2, 2), 32, (1, 8, 8))),
        ... ).eval()
        >>> draw = vae.draw(torch.zeros(5, 1, 8, 8))
        >>> draw.q.codes.shape, draw.rate  # 4 log 16
        (torch.Size([5, 1, 2, 2]), tensor([11.0904, 11.0904, 11.0904, 11.0904, 11.0904]))
    """

    tables: Tensor
    used_tables: Tensor
    sizes: Tensor
    sums: Tensor

    def __init__(
        self,
        network: nn.Module,
        codes: int = 512,
        *,
        stages: int = 1,
        decay: float | None = 0.99,
        revive: float = 0.05,
    ) -> None:
        super().__init__()
        self.network = network
        self.codes = check_whole_number("VectorQuantized: codes", codes)
        self.stages = check_whole_number("VectorQuantized: stages", stages)
        self.decay = decay
        self.revive = revive
        check_share("VectorQuantized: revive", revive)
        shape = find_output_shape(self)
        self.event_dims = len(shape)
        tables = torch.randn(self.stages, self.codes, shape[0]) / self.codes
        if decay is None:
            self.tables = nn.Parameter(tables)
            return
        check_share("VectorQuantized: decay", decay)
        self.register_buffer("tables", tables)
        self.register_buffer("used_tables", tables.clone())
        self.register_buffer("sizes", torch.zeros(self.stages, self.codes))
        self.register_buffer("sums", torch.zeros_like(tables))

    @property
    def units(self) -> int:
        """S, the number of stages."""
        return self.stages

    @property
    def count(self) -> int:
        """K, the number of codes of each stage."""
        return self.codes

    def get_tables(self) -> Tensor:
        """The vectors of the codes, ``[S, K, D]``.

        While the codes are trained, these are the vectors that the last call used, so that a prior
        finds the codes that the posterior chose.
        """
        if self._updates_codes():
            return to_full_precision(self.used_tables)
        return to_full_precision(self.tables)

    def forward(self, *given: Any, **fields: Any) -> CodePoint:
        """The codes of these inputs. In training mode the moving averages are updated."""
        raw = self.parameters_from(self.network, *given, **fields)
        if not self._updates_codes():
            return self._quantize(raw)[0]
        self.used_tables.copy_(self.tables)
        q, inputs = self._quantize(raw)
        self._update_codes(inputs, q.codes)
        return q

    def _updates_codes(self) -> bool:
        """Whether a call now updates the codes: they are moving averages, and in training."""
        if not self.training or self.decay is None:
            return False
        learned = [parameter.requires_grad for parameter in self.parameters()]
        return not learned or any(learned)

    def from_parameters(self, raw: Tensor) -> CodePoint:
        """The codes of these outputs of the network."""
        return self._quantize(raw)[0]

    def find(self, z: Tensor) -> Tensor:
        """The codes ``[*leading, S, *sides]`` whose sums are nearest to ``[*leading, D, *sides]``.

        See :func:`lowerbound.distributions.codes.find_codes`.
        """
        return find_codes(z.detach(), self.get_tables().detach(), self.event_dims)

    def _quantize(self, raw: Tensor) -> tuple[CodePoint, list[Tensor]]:
        """Choose the codes, and return them with what each stage quantised, ``[..., D]``."""
        left = raw.movedim(-self.event_dims, -1)
        inputs, chosen, codes = [], [], []
        for table in self.get_tables().unbind(0):
            nearest = find_nearest(left.detach(), table.detach())
            inputs.append(left)
            codes.append(nearest)
            chosen.append(table[nearest])
            left = left - chosen[-1].detach()
        whole = torch.stack(chosen).sum(0).movedim(-1, -self.event_dims).detach()
        q = CodePoint(
            # The value is exactly the codes', and the gradient exactly that of the output.
            whole + (raw - raw.detach()),
            torch.stack(codes, -self.event_dims),
            self.codes,
            event_dims=self.event_dims,
            errors=(
                self._sum_squares(inputs, [vector.detach() for vector in chosen]),
                self._sum_squares([vector.detach() for vector in inputs], chosen),
            ),
            codebook=self,
        )
        return q, [vectors.detach() for vectors in inputs]

    def _sum_squares(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Sum squared distances over stages and positions, ``[*leading]``."""
        distances = torch.stack(first) - torch.stack(second)
        return distances.square().flatten(-self.event_dims).sum((0, -1))

    @torch.no_grad()
    def _update_codes(self, inputs: list[Tensor], codes: Tensor) -> None:
        """Move the codes to the moving averages of the vectors that chose them."""
        assert self.decay is not None
        decay, old = self.decay, self.get_tables()
        tables, sizes, sums = [], [], []
        for stage, whole in enumerate(inputs):
            chosen = codes.select(-self.event_dims, stage).flatten()
            vectors = whole.reshape(-1, whole.shape[-1])
            # Products with one-hot codes, because sums by index are not reproducible on a GPU.
            numbers = torch.arange(self.codes, device=chosen.device)
            one_hot = (chosen.unsqueeze(-1) == numbers).to(vectors.dtype)
            size = decay * self.sizes[stage] + (1 - decay) * one_hot.sum(0)
            total = decay * self.sums[stage] + (1 - decay) * (one_hot.mT @ vectors)
            used = (size > _LEAST_USE).unsqueeze(-1)
            table = torch.where(used, total / size.clamp(min=_LEAST_USE).unsqueeze(-1), old[stage])
            average = size.mean()
            dead = size < self.revive * average
            picked = _pick_rows(vectors, self.codes)
            sizes.append(torch.where(dead, average, size))
            sums.append(torch.where(dead.unsqueeze(-1), picked * average, total))
            tables.append(torch.where(dead.unsqueeze(-1), picked, table))
        self.tables.copy_(torch.stack(tables))
        self.sizes.copy_(torch.stack(sizes))
        self.sums.copy_(torch.stack(sums))


# A code whose moving average of use is below this keeps its vector.
_LEAST_USE = 1e-8


def _pick_rows(vectors: Tensor, count: int) -> Tensor:
    """Pick rows at random, ``[count, D]``."""
    u = noise.uniform((count,), -1, dtype=torch.float64, device=vectors.device)
    return vectors[(u * len(vectors)).long()]


# The largest number of codes of a grid.
_MOST_CODES = 1 << 20


@describable
class FiniteScalarQuantized(Quantizer):
    r"""Codes that are points of a fixed grid: finite scalar quantisation.

    Each of D channels is bounded and rounded to one of its levels, which are evenly spaced from -1
    to about 1,

    .. math:: z_d = \operatorname{round}(h_d \tanh(e_d + s_d) - o_d) / \lfloor L_d / 2 \rfloor

    with :math:`h_d` just above :math:`(L_d - 1) / 2`, :math:`o_d` 0 for an odd number of levels and
    1/2 for an even one, and :math:`s_d` such that 0 stays 0. A position has one of
    :math:`K = \prod_d L_d` codes. Nothing has to be learned or revived, so
    :class:`lowerbound.ELBO` is the objective. The bound is that of :class:`VectorQuantized`.

    Args:
        network: from the input to e, ``[*leading, D]`` or ``[*leading, D, *sides]``. It must
            declare its ``output_shape``.
        levels: the number of levels of each channel, D of them, at least 2 each.

    Raises:
        SettingsError: for levels below 2, or more than 1,048,576 codes.
        ShapeError: if the network does not give one channel for each of the levels.

    Source: Mentzer et al. 2024, "Finite scalar quantization: VQ-VAE made simple".

    Example:
        >>> import torch, lowerbound as lb
        >>> posterior = lb.FiniteScalarQuantized(lb.mlp(6, 32, (3, 4)), levels=(8, 5, 5))
        >>> q = posterior(torch.randn(7, 6))
        >>> q.codes.shape, q.count, bool((q.loc.abs() <= 1).all())
        (torch.Size([7, 1, 4]), 200, True)
    """

    grid: Tensor
    level_counts: Tensor

    def __init__(self, network: nn.Module, levels: Sequence[int] = (8, 5, 5, 5)) -> None:
        super().__init__()
        self.network = network
        if not isinstance(levels, Sequence):
            raise SettingsError(
                f"FiniteScalarQuantized: levels={levels!r} must list the levels of each channel"
            )
        self.levels = tuple(
            check_whole_number("FiniteScalarQuantized: levels", level) for level in levels
        )
        if min(self.levels, default=0) < 2:
            raise SettingsError(
                f"FiniteScalarQuantized: levels={self.levels} must be whole numbers of at least 2"
            )
        if self.count > _MOST_CODES:
            raise SettingsError(
                f"FiniteScalarQuantized: levels={self.levels} make {self.count:,} codes, and at "
                f"most {_MOST_CODES:,} are possible, because a prior has a probability for each; "
                "use fewer levels or fewer channels"
            )
        shape = find_output_shape(self)
        self.event_dims = len(shape)
        if shape[0] != len(self.levels):
            raise ShapeError(
                f"FiniteScalarQuantized: {len(self.levels)} levels need as many channels, and the "
                f"network's output has the shape {shape}"
            )
        counts = torch.tensor(self.levels)
        self.register_buffer("level_counts", counts, persistent=False)
        grid = torch.cartesian_prod(*(torch.arange(level) for level in self.levels))
        levels_from_the_middle = grid.reshape(-1, len(self.levels)) - counts // 2
        # Whole numbers, so that they are exact in every floating type.
        grid = levels_from_the_middle.to(torch.get_default_dtype())
        self.register_buffer("grid", grid, persistent=False)

    @property
    def units(self) -> int:
        """1: one code makes the vector at a position."""
        return 1

    @property
    def count(self) -> int:
        """K, the product of the levels."""
        return math.prod(self.levels)

    def get_tables(self) -> Tensor:
        """The points of the grid, ``[1, K, D]``."""
        return (to_full_precision(self.grid) / (self.level_counts // 2)).unsqueeze(0)

    def from_parameters(self, raw: Tensor) -> CodePoint:
        """The codes of these outputs of the network."""
        vectors = raw.movedim(-self.event_dims, -1)
        counts = self.level_counts.to(vectors.dtype)
        # Slightly more than half, so that the outermost levels are reached.
        half = (counts - 1) * (1 + 1e-3) / 2
        offset = 0.5 * (self.level_counts % 2 == 0)
        shift = torch.atanh(offset / half)
        bounded = (vectors + shift).tanh() * half - offset
        width = self.level_counts // 2
        # The value is exactly the level, and the gradient exactly that of the bounded output.
        rounded = bounded.detach().round() + (bounded - bounded.detach())
        loc = (rounded / width).movedim(-1, -self.event_dims)
        codes = self._number_levels(bounded.detach().round() + width)
        return CodePoint(loc, codes, self.count, event_dims=self.event_dims, codebook=self)

    def find(self, z: Tensor) -> Tensor:
        """The codes ``[*leading, 1, *sides]`` of points ``[*leading, D, *sides]`` of the grid."""
        width = self.level_counts // 2
        return self._number_levels(
            (z.detach().movedim(-self.event_dims, -1) * width).round() + width
        )

    def _number_levels(self, levels: Tensor) -> Tensor:
        """The number of the code with these levels ``[..., D]``, ``[*leading, 1, *sides]``."""
        number = torch.zeros_like(levels[..., 0], dtype=torch.long)
        for channel, count in enumerate(self.levels):
            number = number * count + levels[..., channel].long()
        return number.unsqueeze(-self.event_dims)


def find_output_shape(quantizer: Any) -> Shape:
    """Find the shape ``(D, *sides)`` of the output of a quantised posterior's network.

    Raises:
        ShapeError: if the network does not declare it.
    """
    declared: Shape | None = getattr(quantizer.network, "output_shape", None)
    if declared is None:
        raise ShapeError(
            f"{type(quantizer).__name__} needs a network that declares its output_shape, such as "
            "lb.mlp, lb.conv or lb.flatten_leading(network, inputs, outputs)"
        )
    return as_shape(declared)
