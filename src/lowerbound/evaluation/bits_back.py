"""The stack of bits of :mod:`lowerbound.evaluation.compression`, and what is pushed on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.data.examples import Examples
from lowerbound.distributions import (
    DiagonalNormal,
    as_diagonal,
    check_independent_entries,
    entrywise_log_prob,
    is_mass,
)
from lowerbound.errors import SettingsError, StorageError, UnsupportedError
from lowerbound.evaluation.bits_back_groups import (
    COARSEST,
    SURPLUS,
    expand_groups,
    list_groupings,
)
from lowerbound.evaluation.latent_grid import LatentGrid, Moments
from lowerbound.models import LatentModel, LayeredModel, Model
from lowerbound.models.passes import ProgressCallback, explaining_shapes

# A latent unit is rounded to multiples of this fraction of its smallest standard deviation under q,
# which costs less than a thousandth of a nat. The multiples are larger if there would be more cells
# than this: the coder takes 2^-24 of the prior for each cell, so more would cost more than they
# gain.
_STEPS_PER_DEVIATION = 8
_MOST_CELLS = 1 << 17
_LARGEST_POWER = 1000  # of two, as a step

# The cells of a unit reach this many standard deviations beyond its extreme values.
_MARGIN = 8.0

# Parameters are rounded to multiples of this fraction of a cell, and probabilities to multiples of
# this unit. Results of float64 arithmetic on two machines differ by far less.
_PER_CELL = 1024
_PER_PROBABILITY = 1 << 20

# The largest number of examples of a group, and of entries of the table of its probabilities.
_LARGEST_GROUP = 64
_MOST_PROBABILITIES = 1 << 23

# The bits of the coder's state, and the entropy of the standard normal distribution in bits.
_STATE_BITS = 64
_BITS_OF_A_NORMAL = 0.5 * math.log2(2 * math.pi * math.e)


class Coder:
    """Pushes groups of examples on a stack of bits, and pops them.

    Latents are standardised by their prior, given the layers above, and rounded to cells. All units
    have the same number of cells, and each has its own width of a cell.

    Args:
        model: the model. A copy of it computes in float64.
        like: examples of the same kind.

    Raises:
        UnsupportedError: if a part of the model does not allow it, by name.
    """

    cells: int
    steps: NDArray[np.float64]  # of the units of all layers, from the top
    groups: list[int]  # how many groups there are of each grouping
    coarseness = 0  # of the present group

    def __init__(self, model: Model, like: Examples) -> None:
        self.coders = import_coder()
        self.model = _copy_in_float64(model)
        self.levels = int(like.levels or 0)
        self.shape = like.shape
        # The values of the levels, as the likelihood scores them.
        every = torch.arange(self.levels).reshape(-1, *(1,) * len(like.shape))
        self.values = every.double()
        if like.kind is None:
            self.values /= max(1, self.levels - 1)
        self.places: dict[str, slice] = {}  # of each layer among all units

        def measure(name: str, prior: Distribution) -> Tensor:
            ours = _take_diagonal("prior", prior)
            start = max((place.stop for place in self.places.values()), default=0)
            self.places[name] = slice(start, start + ours.event_shape.numel())
            return ours.mean.expand(1, 1, *ours.event_shape)

        p = self.model.likelihood(self._generate(measure))
        check_independent_entries(p)
        if not is_mass(p):
            raise UnsupportedError(
                f"compression needs a likelihood that is a probability mass, such as lb.Bernoulli "
                f"or lb.Categorical; a {type(p).__name__} is a density. Train a model of data with "
                "a known number of levels, such as pixels as they are"
            )
        with explaining_shapes(like):
            self._posteriors_of(np.zeros((1, *self.shape), np.int32))

    def choose_cells(self, levels: NDArray[np.int32]) -> None:
        """Choose the width of the cells of each unit, a power of two, and their number.

        Raises:
            UnsupportedError: if a mean or a standard deviation of q is not finite, or is 0.
        """
        mean, deviation = (
            np.concatenate(parts)
            for parts in zip(
                *(self._posteriors_of(part) for part in self._split(levels)), strict=True
            )
        )
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
            raise UnsupportedError(
                "compression needs finite means and positive, finite standard deviations of q and "
                "of the prior; this model has others, so train it again with a lower rate"
            )
        reach = np.abs(mean).max(0) + _MARGIN * np.maximum(1.0, deviation.max(0))
        wanted = np.maximum(deviation.min(0) / _STEPS_PER_DEVIATION, reach / _MOST_CELLS)
        self.steps = 2.0 ** np.floor(np.log2(wanted))
        self.cells = int(np.ceil(reach / self.steps).max())
        of_units = np.log2(deviation[0] / self.steps) - COARSEST + _BITS_OF_A_NORMAL
        self.first_bits = float(np.maximum(0, of_units).sum() + 2 * np.sqrt(of_units.size))

    def restore(self, cells: int, steps: list[int], groups: list[int]) -> None:
        """Take the cells and the groups from a header, with the steps as powers of two.

        Raises:
            ValueError: if they cannot be those of this model.
        """
        units = max(place.stop for place in self.places.values())
        if len(steps) != units or max(map(abs, steps)) > _LARGEST_POWER or cells > 2 * _MOST_CELLS:
            raise ValueError(f"{len(steps)} steps and {cells} cells for {units} units")
        self.cells, self.groups = cells, groups
        self.steps = 2.0 ** np.array(steps, np.float64)

    def push_all(
        self, levels: NDArray[np.int32], progress: ProgressCallback | None
    ) -> NDArray[np.uint32]:
        """Push all examples, and return the words of the stack."""
        first_words = math.ceil((_STATE_BITS + self.first_bits) / 32)
        stack = self.coders.stream.stack.AnsCoder(_make_first_words(first_words))
        groupings, self.groups = list_groupings(self._find_largest_group()), [0]
        start = 0
        while start < len(levels):
            grouping = groupings[len(self.groups) - 1]
            group = levels[start : start + grouping.size]
            popped = self._push(stack, group, grouping.coarseness) / len(group)
            self.groups[-1] += 1
            start += len(group)
            for later in groupings[len(self.groups) :]:
                finer = grouping.coarseness - later.coarseness
                needed = later.size * (popped + finer * len(self.steps))
                if stack.num_valid_bits() < _STATE_BITS + SURPLUS * needed:
                    break
                self.groups.append(0)
            if progress is not None:
                progress(start, len(levels))
        words: NDArray[np.uint32] = stack.get_compressed()
        return words

    def pop_all(
        self, words: NDArray[np.uint32], count: int, progress: ProgressCallback | None
    ) -> NDArray[np.int32]:
        """Pop all examples, the last one first.

        Raises:
            ValueError: if the words or the groups cannot be those of this many examples.
            StorageError: if other bits are left on the stack than were there at first.
        """
        stack = self.coders.stream.stack.AnsCoder(words)
        levels = np.zeros((count, *self.shape), np.int32)
        groups = expand_groups(self.groups, self._find_largest_group(), count)
        for group, coarseness in reversed(groups):
            levels[group] = self._pop(stack, group.stop - group.start, coarseness)
            if progress is not None:
                progress(count - group.start, count)
        left = stack.get_compressed()
        first = _make_first_words(len(left))
        if len(left) < _STATE_BITS // 32 or not np.array_equal(left, first):
            raise StorageError(
                "the bits that are left are not those with which compression started: the file is "
                "damaged, or this machine's arithmetic differs too much from that of the machine "
                "that wrote it"
            )
        return levels

    def _find_largest_group(self) -> int:
        table = math.prod(self.shape) * self.levels
        return max(1, min(_LARGEST_GROUP, _MOST_PROBABILITIES // table))

    def _push(self, stack: Any, levels: NDArray[np.int32], coarseness: int) -> int:
        """Push examples, and return the number of bits that were popped for their latents."""
        count, drawn, before = len(levels), {}, stack.num_valid_bits()
        self.coarseness = coarseness

        def pop(name: str, q: Distribution, prior: Distribution) -> Tensor:
            drawn[name] = self.grid.pop(stack, self._round(name, *_standardise(q, prior)))
            return self._place(name, drawn[name], prior)

        state = self._infer(levels, pop)
        popped: int = before - stack.num_valid_bits()
        stack.encode_reverse(levels.reshape(-1), self._entries, self._tabulate(state))
        for name in reversed(drawn):
            stack.encode_reverse(drawn[name], self.grid.whole, *self._round_prior(name, count))
        return popped

    def _pop(self, stack: Any, count: int, coarseness: int) -> NDArray[np.int32]:
        drawn: dict[str, NDArray[np.int32]] = {}
        posteriors: dict[str, Moments] = {}
        self.coarseness = coarseness

        def pop(name: str, prior: Distribution) -> Tensor:
            drawn[name] = stack.decode(self.grid.whole, *self._round_prior(name, count))
            return self._place(name, drawn[name], prior)

        def note(name: str, q: Distribution, prior: Distribution) -> Tensor:
            posteriors[name] = self._round(name, *_standardise(q, prior))
            return self._place(name, drawn[name], prior)

        found = stack.decode(self._entries, self._tabulate(self._generate(pop)))
        levels = np.asarray(found, np.int32).reshape(count, *self.shape)
        self._infer(levels, note)
        for name in reversed(posteriors):
            self.grid.push(stack, drawn[name], posteriors[name])
        return levels

    @property
    def grid(self) -> LatentGrid:
        """The cells of the latents."""
        return LatentGrid(self.coders, self.cells)

    @property
    def _entries(self) -> Any:
        """The family of distributions over the levels of an entry."""
        return self.coders.stream.model.Categorical(perfect=False)

    def _generate(self, visit: Callable[[str, Distribution], Tensor]) -> Tensor:
        """Visit the priors from the top, and return what the likelihood needs."""
        if isinstance(self.model, LayeredModel):
            return self.model.visit_priors({}, visit)
        return visit("z", self.model.prior_given({}))

    def _infer(
        self,
        levels: NDArray[np.int32],
        visit: Callable[[str, Distribution, Distribution], Tensor],
    ) -> Tensor:
        """Visit posteriors and priors from the top, and return what the likelihood needs."""
        x = self.values.flatten()[torch.from_numpy(levels).long()]
        if isinstance(self.model, LayeredModel):
            return self.model.visit_top_down(x, {}, visit)
        return visit("z", self.model.posterior_given(x, {}), self.model.prior_given({}))

    def _posteriors_of(self, levels: NDArray[np.int32]) -> Moments:
        """The moments of all units under q, ``[B, units]``, at the means of the layers above."""
        moments = []

        def note(name: str, q: Distribution, prior: Distribution) -> Tensor:
            moments.append([part.reshape(len(levels), -1) for part in _standardise(q, prior)])
            return q.mean.expand(1, len(levels), *q.event_shape)

        self._infer(levels, note)
        mean, deviation = (np.concatenate(parts, 1) for parts in zip(*moments, strict=True))
        return mean, deviation

    def _place(self, name: str, u: NDArray[np.int32], prior: Distribution) -> Tensor:
        """The latents ``[1, B, *units]`` in the middle of their cells."""
        ours, steps = _take_diagonal("prior", prior), self._steps_of(name)
        standardised = np.asarray(u, np.float64).reshape(-1, len(steps)) * steps
        z = torch.from_numpy(standardised).reshape(1, -1, *ours.event_shape)
        return ours.mean + ours.stddev * z

    def _round(
        self, name: str, mean: NDArray[np.float64], deviation: NDArray[np.float64]
    ) -> Moments:
        """Moments in cells, rounded so that machines agree on them."""
        steps = self._steps_of(name)
        per_unit = _PER_CELL / np.tile(steps, len(mean) // len(steps))
        rounded = np.maximum(1.0, np.round(deviation * per_unit))
        return np.round(mean * per_unit) / _PER_CELL, rounded / _PER_CELL

    def _steps_of(self, name: str) -> NDArray[np.float64]:
        """The width of the cells of a layer's units, for the present group."""
        steps: NDArray[np.float64] = self.steps[self.places[name]] * 2.0**self.coarseness
        return steps

    def _round_prior(self, name: str, count: int) -> Moments:
        size = count * len(self.steps[self.places[name]])
        return self._round(name, np.zeros(size), np.ones(size))

    def _tabulate(self, state: Tensor) -> NDArray[np.float64]:
        """Tabulate the rounded probability of each level of each entry, ``[B * entries, levels]``.

        The unit is ``1 / _PER_PROBABILITY``, and no probability is 0.
        """
        p = self.model.likelihood(state)
        values = self.values[:, None].expand(-1, p.batch_shape[-1], *self.shape)
        table = torch.stack([entrywise_log_prob(p, value[None])[0] for value in values], -1).exp()
        rounded = (table.reshape(-1, self.levels) * _PER_PROBABILITY).round() + 1
        return rounded.numpy()

    def _split(self, levels: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
        """Split examples into parts that fit into memory."""
        largest = self._find_largest_group()
        for start in range(0, len(levels), largest):
            yield levels[start : start + largest]


def import_coder() -> Any:
    """Import the package of the entropy coder.

    Raises:
        SettingsError: if it is not installed.
    """
    try:
        import constriction
    except ImportError:
        raise SettingsError(
            "compression needs the package constriction; install it: "
            "pip install 'lowerbound[compression]'"
        ) from None
    return constriction


def _make_first_words(count: int) -> NDArray[np.uint32]:
    """Make the words with which a stack starts, and which decompression leaves on it.

    Any would do, if both sides know them. They are odd multiples of 2^32 / 1.618.
    """
    return np.arange(1, 2 * count, 2, dtype=np.uint32) * np.uint32(2654435761)


def _standardise(q: Distribution, prior: Distribution) -> Moments:
    """The moments of q, ``[B * units]``, in standard deviations of the prior from its mean."""
    ours, above = _take_diagonal("posterior", q), _take_diagonal("prior", prior)
    mean = (ours.mean - above.mean) / above.stddev
    deviation = (ours.stddev / above.stddev).expand(mean.shape)
    return mean.flatten().numpy(), deviation.flatten().numpy()


def _copy_in_float64(model: Model) -> LatentModel | LayeredModel:
    is_layered = isinstance(model, LayeredModel)
    if not is_layered and not isinstance(model, LatentModel):
        raise UnsupportedError(
            f"compression needs a lb.LatentModel or a lb.LayeredModel; this is a "
            f"{type(model).__name__}; train one of these"
        )
    if is_layered and model.features is None:
        raise UnsupportedError(
            "compression needs top-down inference, in which each posterior is given with its "
            "prior; this lb.LayeredModel has no features=..., so its inference is bottom-up; train "
            "a model with features=..., such as the recipes ladder and deep"
        )
    if model.needs:
        raise UnsupportedError(
            f"compression is for models without fields, and this model needs "
            f"{', '.join(model.needs)}; train one whose parts need none"
        )
    copied: Any = copy.deepcopy(model)
    whole: LatentModel | LayeredModel = (
        copied.to("cpu", torch.float64).eval().requires_grad_(requires_grad=False)
    )
    return whole


def _take_diagonal(role: str, distribution: Distribution) -> DiagonalNormal:
    ours = as_diagonal(distribution)
    if ours is None:
        raise UnsupportedError(
            f"compression needs a {role} that is a diagonal Gaussian, such as that of lb.Gaussian "
            f"or lb.StandardNormal, not a {type(distribution).__name__}; train a model with one"
        )
    return ours
