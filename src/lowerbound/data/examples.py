"""Examples in their storage type, which are decoded in batches for a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from lowerbound.data.fields import (
    EXPOSURE,
    OBSERVED,
    check_fields,
    check_shapes,
    mark_missing,
    read_labels,
    select_requested,
    sum_counts,
    take_rows,
)
from lowerbound.data.identity import compute_digest, compute_field_digests, make_identity
from lowerbound.data.kinds import check_entries, check_pixels, make_signed
from lowerbound.data.options import Kind, Missing, Pixels
from lowerbound.data.pixels import decode_pixels
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.rows import Rows, Values, check_row_numbers, select_rows, split_row_numbers
from lowerbound.data.sources import convert_values, read_contents, refuse_settings
from lowerbound.errors import SettingsError
from lowerbound.runtime import noise
from lowerbound.runtime.renaming import OldAttribute
from lowerbound.settings import check_flag, check_seed


@dataclass(frozen=True, eq=False)
class Examples:
    """``N`` examples in their storage type, in memory or in a file. Batches are decoded.

    The meaning of the values follows from their type, and for integers from ``kind``:

    - uint8 with ``levels`` (8-bit pictures: 256) are *pixels*, scaled to [0, 1];
    - floating-point values are *real numbers*, used as they are;
    - ``kind="counts"``: whole numbers from 0 on, never scaled;
    - ``kind="codes"``: categories from 0 to ``levels - 1``, never scaled.

    ``pixels`` says how pixels are treated:

    - ``"as-is"``: ``x = v / (levels - 1)``.
    - ``"dequantize"``: ``x = (v + u) / levels`` with fresh ``u ~ U[0, 1)`` in every epoch. A
      density of ``x`` then bounds the probability of ``v``, and can be reported in bits per
      dimension (Theis et al. 2016).
    - ``"binarize"``: ``x ~ Bernoulli(grey value)``, drawn again in every epoch ("dynamic"
      binarisation); also for real numbers in [0, 1].
    - ``"binarize-once"``: drawn once by :meth:`prepare`, from its seed ("static" binarisation).

    ``missing="nan"`` says that NaN means *not observed*. Zeros are stored there, and the field
    ``observed``, a mask of the shape of the values, is True for observed entries. A row without any
    observed entry is allowed: its likelihood is 1, and its posterior should be the prior.

    Args:
        values: a tensor, array, nested list, memory-mapped file or sparse matrix ``[N, *shape]``.
        levels: the number of values that a pixel or code can take. For codes the default is one
            more than the largest code.
        pixels: one of the treatments above.
        labels: an integer or text for each example, ``[N]``, or ``None``. Text becomes integers.
        label_names: the meanings of these integers.
        name: the name of the data in messages.
        rows: the positions of the examples in their source, ``[N]``, or ``None`` for all of them.
        files: the file that each example came from, relative to its folder, or ``None``.
        fields: values that belong to each example but are not scored, such as covariates: ``[N,
            ...]`` each, by name. Integers are categories, floating point values are numeric,
            booleans are masks, and text becomes categories. Pixel treatments do not change them.
            The labels are the field ``label``. The field ``exposure`` of counts is by default the
            sum of each row.
        kind: ``"counts"``, ``"codes"``, or ``None`` for pixels and real numbers.
        categories: the meanings of the integers of a field, by the name of the field.
        columns: the names of the entries of vectors, as of a table's columns, or ``None``.
        preprocessing: how :func:`lowerbound.load_data` made the examples, or ``None``.
        missing: ``"nan"``, or ``None`` to refuse NaN.

    Raises:
        DataError: if there are none, their type is wrong, or an entry is non-finite or not of its
            kind, naming the first such row.

    Example:
        >>> examples = Examples.of(torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8))
        >>> examples.batch(torch.tensor([1]))
        tensor([[0.2000, 0.4000]])
        >>> cells = Examples(torch.tensor([[0, 700]]), kind="counts", fields={"batch": ["a"]})
        >>> cells.batch(torch.tensor([0])), cells.given(torch.tensor([0]), ["batch"])
        (tensor([[  0., 700.]]), {'batch': tensor([0])})
    """

    values: Values
    levels: int | None = None
    pixels: Pixels = "as-is"
    labels: Tensor | None = None
    label_names: tuple[str, ...] | None = None
    name: str = "data"
    rows: Tensor | None = None
    files: tuple[str, ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    missing: InitVar[Missing | None] = None

    def __post_init__(self, missing: Missing | None) -> None:
        self._set(values=convert_values(self.values, self.name))
        if self.labels is not None:
            labels, names = read_labels(self.labels, self.label_names, self.name)
            self._set(labels=labels, label_names=names)
        check_shapes(self.values, self.labels, self.fields, self.name)
        if self.rows is not None:
            check_row_numbers(self.rows, len(self.values), self.name)
        if missing is not None:
            values, given = mark_missing(self.values, self.fields, missing, self.name)
            self._set(values=values, fields=given)
        if self.fields:
            fields, found = check_fields(self.fields, self.values, self.name)
            self._set(fields=fields, categories={**self.categories, **found})
        if self.kind is not None:
            self._set(values=make_signed(self.values))
        about = (self.values, self.kind, self.levels, self.name, self.columns)
        self._set(levels=check_entries(*about))
        check_pixels(self.values, self.pixels, self.kind, self.levels, self.name)

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        data: Any,
        *,
        name: str = "data",
        kind: Kind | None = None,
        missing: Missing | None = None,
        labels: Any = None,
        fields: Mapping[str, Any] | Sequence[str] | None = None,
        layer: str | None = None,
    ) -> Examples:
        """Make examples from an array, tensor, nested list, sparse matrix or AnnData object.

        uint8 values are pixels of 256 levels, booleans are binary pixels, floating-point values are
        real numbers, and other integers are refused without ``kind``. SciPy's sparse matrices, also
        those in AnnData objects, stay sparse: only the rows of a batch become dense. Memory-mapped
        arrays stay in their file. Tensors on the CPU are not copied, but all other data are.

        Args:
            data: the data. Examples are returned as they are.
            name: the name of the data in messages.
            kind, missing, labels: see :class:`Examples`.
            fields: see :class:`Examples`. For AnnData, the names of columns of ``obs``.
            layer: the layer of AnnData to read instead of X.

        Raises:
            DataError: for any other data.
        """
        if isinstance(data, Examples):
            settings = {"kind": kind, "missing": missing, "labels": labels, "fields": fields}
            refuse_settings(settings | {"layer": layer}, f"{name}: these already are Examples")
            return data
        read = read_contents(data, name=name, kind=kind, fields=fields, layer=layer)
        return cls(name=name, missing=missing, labels=labels, **read)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: ``(C, H, W)`` for pictures, ``(D,)`` for vectors."""
        return tuple(self.values.shape[1:])

    @property
    def is_discrete(self) -> bool:
        """Whether entries are from a known countable set, so that a probability mass suits them.

        This is true for counts, codes, pixels as they are, and binarised pixels. It is false for
        dequantised pixels, and for real numbers, whose discretisation is not known.
        """
        if self.pixels == "dequantize":
            return False
        return self.kind is not None or self.levels is not None or self.pixels == "binarize"

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.shape)
        about = [f"{len(self):,} of {size}", str(self.values.dtype)]
        about.append(self.kind or f"pixels {self.pixels}")
        if self.labels is not None:
            about.append(f"{len(self.labels.unique())} classes")
        if self.fields:
            about.append(f"fields {' '.join(self.fields)}")
        return f"Examples({self.name}: {', '.join(about)})"

    def batch(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Decode the examples at ``index``, ``[B, *shape]``; see :meth:`decode`."""
        return self.decode(self.values[index], dtype)

    def decode(self, stored: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Decode stored values, ``[B, *shape]``, into the values that a model receives.

        It is random for ``"dequantize"`` and ``"binarize"``. Counts and codes are not scaled;
        float32 represents them exactly up to 2^24.
        """
        if self.kind is not None:
            return stored.to(dtype)
        return decode_pixels(stored, dtype, levels=self.levels, pixels=self.pixels)

    numbers = OldAttribute("decode")

    def given(
        self, index: Tensor, needs: Sequence[str] = (), accepts: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Get the fields that a model requests of the examples at ``index``, ``[B, ...]`` each.

        Args:
            index: the row numbers, ``[B]``.
            needs: names of fields that must exist.
            accepts: names of fields that are returned if they exist.

        Raises:
            DataError: if a needed field does not exist, naming it.
        """
        return take_rows(self.select_fields(needs, accepts), index)

    def select_fields(self, needs: Sequence[str], accepts: Sequence[str] = ()) -> dict[str, Tensor]:
        """Select the fields that a model requests, ``[N, ...]`` each, see :meth:`given`."""
        known = self.all_fields
        if EXPOSURE in {*needs, *accepts} - known.keys():
            known |= self._exposures
        return select_requested(known, needs, accepts, self.name)

    @cached_property
    def _exposures(self) -> dict[str, Tensor]:
        """The sums of the rows if they are exposures, and if the model learned no other ones."""
        if self.kind != "counts" or EXPOSURE in getattr(self.preprocessing, "fields", ()):
            return {}
        return {EXPOSURE: sum_counts(self.values)}

    @property
    def all_fields(self) -> dict[str, Tensor]:
        """The fields by name, with the labels as the field ``label``."""
        if self.labels is None:
            return dict(self.fields)
        return {"label": self.labels, **self.fields}

    @property
    def categories_by_field(self) -> dict[str, tuple[str, ...] | None]:
        """The meanings of the integers of each field, or ``None`` if they are not known."""
        known = dict(self.categories)
        if self.label_names is not None:
            known["label"] = self.label_names
        return {name: known.get(name) for name in self.all_fields if name != OBSERVED}

    def prepare(self, pixels: Pixels, *, seed: int = 0) -> Examples:
        """Make examples with other pixels; only ``"binarize-once"`` draws them from ``seed``."""
        if pixels not in get_args(Pixels):
            raise SettingsError(
                f"pixels={pixels!r} is unknown; choose one of {', '.join(get_args(Pixels))}"
            )
        seed = check_seed("prepare", seed)
        raw = self.preprocessing
        if raw is not None:
            raw = raw.treating_pixels(pixels, seed)
        if pixels != "binarize-once":
            return replace(self, pixels=pixels, preprocessing=raw)
        if isinstance(self.values, Rows):
            raise SettingsError(
                f"pixels='binarize-once' makes a copy of all values, but those of {self.name} are "
                "not in memory as one array; use 'binarize'"
            )
        dynamic = replace(self, pixels="binarize")
        binary = torch.empty_like(self.values, dtype=torch.uint8)
        rows = self._get_row_numbers()
        for index in split_row_numbers(self.values):
            with noise.per_example(noise.derived_seed(seed, "binarize-once"), rows[index]):
                binary[index] = dynamic.batch(index).to(torch.uint8)
        return replace(self, values=binary, levels=2, pixels="as-is", preprocessing=raw)

    def _get_row_numbers(self) -> Tensor:
        if self.rows is None:
            return torch.arange(len(self))
        return self.rows

    def subset(self, index: Tensor) -> Examples:
        """Select the examples at ``index``, in its order.

        As in an index of a tensor, negative positions count from the end, and a mask selects.
        """
        positions = torch.arange(len(self))[index.cpu()]
        parts: dict[str, Any] = {"rows": self._get_row_numbers()[positions]}
        if self.labels is not None:
            parts["labels"] = self.labels[positions]
        if self.files is not None:
            parts["files"] = tuple(self.files[position] for position in positions.tolist())
        parts["values"] = select_rows(self.values, positions.to(self.values.device))
        parts["fields"] = take_rows(self.fields, positions)
        return replace(self, **parts)

    def first(self, count: int) -> Examples:
        """Select the first ``count`` examples, or all if they are fewer."""
        return self.subset(torch.arange(min(count, len(self)), device=self.values.device))

    def spread(self, count: int) -> Examples:
        """Select ``count`` evenly spaced examples, or all if they are fewer.

        They include every class, even if the data are sorted by class.
        """
        last = len(self) - 1
        return self.subset(
            torch.linspace(0, last, min(count, len(self))).round().long().to(self.values.device)
        )

    def split(
        self, fraction: float, *, seed: int = 0, setting: str = "fraction"
    ) -> tuple[Examples, Examples]:
        """Split the examples at random into two parts. The second gets the ``fraction``.

        ``setting`` is the name of the fraction in messages.

        Raises:
            SettingsError: if ``fraction`` is not between 0 and 1, or leaves a part empty, or if
                ``seed`` is not from 0 to 2^31 - 1.
        """
        seed = check_seed("split", seed)
        held_out = 0
        if 0 < fraction < 1:
            held_out = round(len(self) * fraction)
        if not 0 < held_out < len(self):
            remedy = "give a number between 0 and 1 such as 0.5"
            if len(self) == 1:
                remedy = "one example cannot be split"
            raise SettingsError(
                f"{self.name}: {setting}={fraction} of {len(self)} examples leaves a part empty; "
                f"{remedy}, or use all of them: remove {setting} (--{setting.replace('_', '-')} 0)"
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        rest, second = order[held_out:], order[:held_out]
        return self.subset(rest.sort().values), self.subset(second.sort().values)

    def to(self, device: torch.device | str) -> Examples:
        """Move the values and fields to ``device``."""
        fields = {name: value.to(device) for name, value in self.fields.items()}
        return replace(self, values=self.values.to(device), fields=fields)

    def digest(self) -> str:
        """Compute the SHA-256 digest of the values, by which sets of examples are compared."""
        return compute_digest(self.values)

    def identity(self, needs: Sequence[str] = (), accepts: Sequence[str] = ()) -> dict[str, Any]:
        """Make the record that a run stores, so that it is resumed only with the same examples.

        Only requested fields are recorded, and the kind only if it is counts or codes.
        """
        fields = self.field_digests(needs, accepts)
        return make_identity(self.values, self.pixels, self.levels, self.kind, fields)

    def field_digests(self, needs: Sequence[str], accepts: Sequence[str] = ()) -> dict[str, str]:
        """Compute the SHA-256 digests of the fields that a model requests, by name.

        Raises:
            DataError: if a needed field does not exist, naming it.
        """
        return compute_field_digests(self.select_fields(needs, accepts))

    def bits_per_dimension(
        self, bound: float, *, mass: bool | None = False, entries: float | None = None
    ) -> float | None:
        """Convert a bound to bits per dimension.

        The result is ``-bound / (D log 2)`` for a probability mass, and ``-bound / (D log 2) +
        log2(levels)`` for a density of dequantised pixels. It is ``None`` for other densities, and
        for data with missing entries, since the bound does not score all D entries.

        Args:
            bound: a lower bound on log p(x), in nats per example, with respect to the [0, 1] scale.
            mass: whether p(x) is a probability mass, see
                :meth:`~lowerbound.Model.likelihood_is_mass`.
            entries: D, the average number of entries of an example that p(x) scores; all by
                default.

        Raises:
            SettingsError: if ``mass`` is not True, False or ``None``.
        """
        if mass is not None:
            check_flag("bits_per_dimension: mass", mass)
        if OBSERVED in self.fields and not self.fields[OBSERVED].all():
            return None
        bits = -bound / ((entries or math.prod(self.shape)) * math.log(2))
        if mass:
            return bits
        if self.pixels != "dequantize" or self.levels is None:
            return None
        return bits + math.log2(self.levels)
