"""Examples in their storage type, and how a batch of them becomes numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.mapped import Mapped
from lowerbound.data.options import Pixels
from lowerbound.errors import DataError, SettingsError
from lowerbound.runtime import noise
from lowerbound.runtime.renaming import OldAttribute

# Bytes of values that are looked at together.
_CHUNK = 1 << 24


@dataclass(frozen=True, eq=False)
class Examples:
    """``N`` examples in their storage type, in memory or in their file; :meth:`batch` decodes some of them.

    Integer storage with ``levels`` known (8-bit images: 256) is scaled to [0, 1]. ``pixels`` says how it gets there:

    - ``"as-is"``: ``x = v / (levels - 1)``; floats are taken as they are.
    - ``"dequantize"``: ``x = (v + u) / levels`` with fresh ``u ~ U[0, 1)`` at every pass, so that a density over ``x``
      bounds the probability of ``v`` and can be reported in bits per dimension (Theis et al. 2016).
    - ``"binarize"``: ``x ~ Bernoulli(grey value)``, drawn afresh at every pass ("dynamic" binarisation).
    - ``"binarize-once"``: drawn once, from ``seed``, by :meth:`prepare` ("static" binarisation).

    Args:
        values: ``[N, *shape]``, uint8 with ``levels``, or floating point: a tensor, or memory-mapped.
        levels: how many values an integer entry can take; ``None`` for floating point.
        pixels: one of the above.
        labels: an integer for each example, ``[N]``, or ``None``.
        label_names: what the integers stand for.
        name: what messages call this data.
        rows: the examples' positions in what they were taken from, ``[N]``; ``None`` if these are all of it.
        files: the file that each example came from, relative to its folder, or ``None``.
        fields: what is given with each example but not scored, such as covariates: ``[N, ...]`` each,
            by name. Integers are categories, floating point values are numbers, booleans are masks.
            No pixel treatment touches them. The labels are the field ``label``.

    Raises:
        DataError: for an empty set, a wrong type, or entries that are not finite, naming the first such row.

    Example:
        >>> examples = Examples.of(torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8))
        >>> examples.batch(torch.tensor([1]))
        tensor([[0.2000, 0.4000]])
    """

    values: Tensor | Mapped
    levels: int | None = None
    pixels: Pixels = "as-is"
    labels: Tensor | None = None
    label_names: tuple[str, ...] | None = None
    name: str = "data"
    rows: Tensor | None = None
    files: tuple[str, ...] | None = None
    fields: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.dim() < 2 or 0 in self.values.shape:
            raise DataError(
                f"{self.name}: expected an array [examples, ...] with at least one example and one dimension, "
                f"got the shape {tuple(self.values.shape)}"
            )
        if self.labels is not None and self.labels.shape != self.values.shape[:1]:
            raise DataError(
                f"{self.name}: {len(self.values)} examples but labels of shape {tuple(self.labels.shape)}"
            )
        for name, value in self.fields.items():
            if value.shape[:1] != self.values.shape[:1]:
                raise DataError(
                    f"{self.name}: {len(self.values)} examples, but the field {name!r} has the shape "
                    f"{tuple(value.shape)}; give one entry for each example"
                )
        if self.values.is_floating_point():
            _refuse_non_finite(self.values, self.name)
        elif self.values.dtype != torch.uint8 or self.levels is None:
            raise DataError(
                f"{self.name}: entries of type {self.values.dtype}; give uint8 (pixels, scaled to [0, 1]) or floating point"
            )
        if self.pixels == "dequantize" and self.levels is None:
            raise DataError(
                f"{self.name}: only data of known discretisation (uint8 pixels) can be dequantised, these are "
                f"{self.values.dtype}; leave pixels='as-is'"
            )
        if self.pixels == "binarize" and self.levels is None:
            _refuse_outside_unit_interval(self.values, self.name)

    @classmethod
    def of(cls, data: Any, *, name: str = "data") -> Examples:
        """Examples from an array, a tensor, nested lists, or something that already is examples.

        uint8 counts as pixels of 256 levels, booleans as binary pixels, floating point is kept, and integers are refused
        as ambiguous. Memory-mapped arrays stay in their file, all else is copied.

        Raises:
            DataError: for what is none of these.
        """
        if isinstance(data, Examples):
            return data
        if hasattr(data, "train") and hasattr(data, "test"):
            raise DataError(
                f"{name}: this is a data set with two parts; pass its .train or its .test"
            )
        if isinstance(data, np.memmap):
            return cls(Mapped.of(data), levels=levels_of(data.dtype), name=name)
        try:
            tensor = (
                data.detach().cpu()
                if isinstance(data, Tensor)
                else torch.from_numpy(np.array(data))
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: cannot be read as an array of numbers ({error})") from None
        if tensor.dtype == torch.bool:
            return cls(tensor.to(torch.uint8), levels=2, name=name)
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        return cls(tensor, levels=256 if tensor.dtype == torch.uint8 else None, name=name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: ``(C, H, W)`` for images, ``(D,)`` for vectors."""
        return tuple(self.values.shape[1:])

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.shape)
        labels = "" if self.labels is None else f", {len(self.labels.unique())} classes"
        return f"Examples({self.name}: {len(self):,} of {size}, {self.values.dtype}, pixels {self.pixels}{labels})"

    def batch(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The examples at ``index``, decoded: ``[B, *shape]``, random where ``pixels`` says so."""
        return self.decode(self.values[index], dtype)

    def decode(self, stored: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Stored values of some examples, ``[B, *shape]``, as a model takes them.

        The result is random where ``pixels`` says so.
        """
        if self.levels is None:
            x = stored.to(dtype)
        elif self.pixels == "dequantize":
            low = stored.to(dtype)
            # Rounding can carry v + u up to v + 1, into the next bin or out of [0, 1).
            return (
                torch.minimum(low + self._uniform(stored, dtype), torch.nextafter(low + 1, low))
                / self.levels
            )
        else:
            x = stored.to(dtype) / (self.levels - 1)
        return (self._uniform(stored, dtype) < x).to(dtype) if self.pixels == "binarize" else x

    numbers = OldAttribute("decode")

    def given(
        self, index: Tensor, needs: Sequence[str] = (), accepts: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The fields of the examples at ``index`` that a model asks for, ``[B, ...]`` each.

        Args:
            index: which examples, ``[B]``.
            needs: names of fields that must be there.
            accepts: names of fields that are given where they are there.

        Raises:
            DataError: if a field that is needed is not there, naming it.
        """
        known = self.all_fields
        lacking = [name for name in needs if name not in known]
        if lacking:
            there = ", ".join(known) or "none"
            raise DataError(
                f"{self.name}: the model needs the field {lacking[0]!r} of each example, but the fields "
                f"are: {there}. Pass lb.Examples(values, fields={{{lacking[0]!r}: ...}})"
            )
        names = [*needs, *(name for name in accepts if name in known)]
        return {name: known[name][index.to(known[name].device)] for name in names}

    @property
    def all_fields(self) -> dict[str, Tensor]:
        """The fields by name, with the labels as the field ``label``."""
        labels = {} if self.labels is None else {"label": self.labels}
        return {**labels, **self.fields}

    @staticmethod
    def _uniform(raw: Tensor, dtype: torch.dtype) -> Tensor:
        return noise.uniform(tuple(raw.shape), 0, dtype=dtype, device=raw.device)

    def prepare(self, pixels: Pixels, *, seed: int = 0) -> Examples:
        """The same examples with another treatment of their pixels; ``seed`` matters for ``"binarize-once"`` only."""
        if pixels not in get_args(Pixels):
            raise SettingsError(
                f"pixels={pixels!r} is unknown; choose one of {', '.join(get_args(Pixels))}"
            )
        if pixels != "binarize-once":
            return replace(self, pixels=pixels)
        if isinstance(self.values, Mapped):
            raise SettingsError(
                f"pixels='binarize-once' makes a copy of all values, and {self.name} is kept in its file; use 'binarize'"
            )
        dynamic = replace(self, pixels="binarize")
        binary = torch.empty_like(self.values, dtype=torch.uint8)
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        for index in _chunks(self.values):
            with noise.per_example(noise.derived_seed(seed, "binarize-once"), rows[index]):
                binary[index] = dynamic.batch(index).to(torch.uint8)
        return replace(self, values=binary, levels=2, pixels="as-is")

    def subset(self, index: Tensor) -> Examples:
        """The examples at ``index``, in its order."""
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        labels = None if self.labels is None else self.labels[index.cpu()]
        files = (
            None
            if self.files is None
            else tuple(self.files[position] for position in index.tolist())
        )
        values = (
            self.values.select(index) if isinstance(self.values, Mapped) else self.values[index]
        )
        fields = {name: value[index.to(value.device)] for name, value in self.fields.items()}
        rows = rows[index.cpu()]
        return replace(self, values=values, labels=labels, rows=rows, files=files, fields=fields)

    def first(self, count: int) -> Examples:
        """The first ``count`` examples, or all if there are fewer."""
        return self.subset(torch.arange(min(count, len(self)), device=self.values.device))

    def spread(self, count: int) -> Examples:
        """``count`` examples at even distances, or all if there are fewer: a look at data that are sorted by class."""
        last = len(self) - 1
        return self.subset(
            torch.linspace(0, last, min(count, len(self))).round().long().to(self.values.device)
        )

    def split(
        self, fraction: float, *, seed: int = 0, setting: str = "fraction"
    ) -> tuple[Examples, Examples]:
        """Two disjoint parts, drawn at random by ``seed``; the second holds ``fraction`` of the examples.

        ``setting`` is what messages call the fraction.

        Raises:
            SettingsError: if ``fraction`` is not between 0 and 1, or leaves a part empty.
        """
        held_out = round(len(self) * fraction) if 0 < fraction < 1 else 0
        if not 0 < held_out < len(self):
            raise SettingsError(
                f"{self.name}: {setting}={fraction} of {len(self)} examples leaves a part empty; give a number between 0 "
                "and 1 that does not"
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[held_out:].sort().values), self.subset(
            order[:held_out].sort().values
        )

    def to(self, device: torch.device | str) -> Examples:
        """The same examples with their values and fields on ``device``."""
        fields = {name: value.to(device) for name, value in self.fields.items()}
        return replace(self, values=self.values.to(device), fields=fields)

    def digest(self) -> str:
        """The SHA-256 digest of the values, which says whether two sets of examples are the same."""
        digest = hashlib.sha256()
        for index in _chunks(self.values):
            digest.update(self.values[index].cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def bits_per_dimension(self, bound: float) -> float | None:
        """``-bound / (D log 2) + log2(levels)``, for dequantised data; ``None`` where no discretisation is known.

        Args:
            bound: a lower bound on log p(x), in nats per example, with respect to the [0, 1] scale.
        """
        if self.pixels != "dequantize" or self.levels is None:
            return None
        return -bound / (math.prod(self.shape) * math.log(2)) + math.log2(self.levels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to train on and examples to test on, of one kind.

    Example:
        >>> from lowerbound.data import load_data
        >>> digits = load_data("digits")
        >>> digits.shape, len(digits.train), len(digits.test)
        ((1, 8, 8), 1617, 180)
    """

    train: Examples
    test: Examples
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train.shape

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.shape)
        return f"Dataset({self.name}: {len(self.train):,} train, {len(self.test):,} test, {size})"

    def prepare(self, pixels: Pixels, *, seed: int = 0) -> Dataset:
        """Both parts with another treatment of their pixels, see :class:`Examples`; ``"as-is"`` leaves them as they are."""
        if pixels == "as-is":
            return self
        return replace(
            self,
            train=self.train.prepare(pixels, seed=seed),
            test=self.test.prepare(pixels, seed=seed + 1),
        )

    def all(self) -> Examples:
        """Both parts together: in the order of their source where a random split made them, else train, then test."""
        train, test = self.train, self.test
        parts = (train.labels, test.labels)
        whole = replace(
            train,
            values=_joined(train.values, test.values),
            labels=None
            if parts[0] is None or parts[1] is None
            else torch.cat([parts[0], parts[1]]),
            rows=None,
            files=None if train.files is None or test.files is None else train.files + test.files,
            fields={
                name: torch.cat([train.fields[name], test.fields[name]])
                for name in train.fields.keys() & test.fields.keys()
            },
        )
        if train.rows is None or test.rows is None:
            return whole
        return replace(whole.subset(torch.cat([train.rows, test.rows]).argsort()), rows=None)


def levels_of(dtype: np.dtype[Any]) -> int | None:
    """How many values an entry of a numpy type counts as: 2 for booleans, 256 for pixels, ``None`` for numbers."""
    return {"b": 2, "u": 256}.get(dtype.kind)


def _joined(first: Tensor | Mapped, second: Tensor | Mapped) -> Tensor | Mapped:
    if isinstance(first, Mapped) and isinstance(second, Mapped):
        return first.joined(second)
    return torch.cat([first.to("cpu"), second.to("cpu")])


def _chunks(values: Tensor | Mapped) -> Iterator[Tensor]:
    """The row numbers of all values, so many at a time as memory does not feel."""
    size = max(1, _CHUNK // (values.dtype.itemsize * math.prod(values.shape[1:])))
    yield from torch.arange(len(values), device=values.device).split(size)


def _is_known(what: str, values: Tensor | Mapped) -> bool:
    """Whether the values have been looked through for this; a file is not read again for every part of it."""
    return isinstance(values, Mapped) and what in values.known


def _learn(what: str, values: Tensor | Mapped) -> None:
    """Remember that the values have been looked through for this, and nothing was found."""
    if isinstance(values, Mapped):
        values.known.add(what)


def _refuse_non_finite(values: Tensor | Mapped, name: str) -> None:
    if _is_known("finite", values):
        return
    for index in _chunks(values):
        chunk = values[index]
        bad = ~torch.isfinite(chunk).flatten(1).all(1)
        if bad.any():
            row, flat = int(index[bad][0]), chunk[bad][0].flatten()
            column = int((~torch.isfinite(flat)).nonzero()[0])
            raise DataError(
                f"{name}: row {row}, entry {column} is {flat[column].item()}; drop such rows or fill them before training"
            )
    _learn("finite", values)


def _refuse_outside_unit_interval(values: Tensor | Mapped, name: str) -> None:
    if _is_known("within [0, 1]", values):
        return
    spans = torch.stack([torch.stack(values[index].aminmax()) for index in _chunks(values)])
    low, high = float(spans[:, 0].min()), float(spans[:, 1].max())
    if low < 0 or high > 1:
        raise DataError(
            f"{name}: only values in [0, 1] can be binarised, these span [{low:.4g}, {high:.4g}]; rescale them first"
        )
    _learn("within [0, 1]", values)
