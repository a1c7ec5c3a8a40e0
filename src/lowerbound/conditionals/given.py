"""Wrappers of conditionals: ``Given`` adds fields to the input, ``Masked`` scores some entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import Conditional, select_fields
from lowerbound.data.fields import OBSERVED
from lowerbound.describe import describable
from lowerbound.distributions import MaskedDistribution
from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.settings import check_whole_number


class Wrapper(Conditional):
    """A conditional around another one, whose needs and settings it passes on.

    Args:
        part: the conditional inside.
    """

    modules_by_name: ClassVar[Mapping[str, str]] = {"part": "lb.Gaussian(...)"}

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.needs: tuple[str, ...] = getattr(part, "needs", ())
        self.accepts: tuple[str, ...] = getattr(part, "accepts", ())
        self.normalized: bool = getattr(part, "normalized", True)

    @property
    def network(self) -> nn.Module:
        """The network of the conditional inside, if that has one."""
        return cast(nn.Module, self.part.network)

    def from_parameters(self, raw: Tensor) -> Distribution:
        """The distribution of these outputs of the network."""
        own = cast(Callable[[Tensor], Distribution], self.part.from_parameters)
        return own(raw)

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor:
        """The network's output, see :class:`Conditional`."""
        own = cast(Callable[..., Tensor], self.part.parameters_from)
        return own(network, *given, **select_fields(self.part, fields))

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse the data that the conditional inside refuses."""
        check = getattr(self.part, "check_data", None)
        if check is not None:
            check(x, rows, name, **select_fields(self.part, fields))

    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Start the conditional inside from the data."""
        if isinstance(self.part, Conditional):
            self.part.start_from(x, **select_fields(self.part, fields))


def unwrap(part: nn.Module) -> nn.Module:
    """Return the conditional inside of all wrappers."""
    while isinstance(part, Wrapper):
        part = part.part
    return part


@describable
class Given(Wrapper):
    r"""A conditional that also depends on a field of the examples, such as a label or a covariate.

    The field is appended to the input of the conditional inside, whose network therefore needs more
    inputs:

    - a vector ``[*leading, J]`` gets the field's entries after its own: a one-hot code of each
      category, or the numeric values themselves;
    - a picture ``[*leading, C, H, W]`` gets them as channels that are constant over the picture. A
      field that has the size of the picture, such as a mask ``[C, H, W]``, is appended as channels
      as it is;
    - a prior, which otherwise has no input, gets the field as its only input and becomes p(z given
      c).

    For several fields, wrap several times:
    ``lb.Given(lb.Given(part, "batch", categories=4), "library")``. The inner field comes last.

    Args:
        part: a conditional, or any module whose ``forward`` returns a distribution.
        field: the name of the field. The labels of examples are the field ``label``.
        categories: the number of categories of an integer field; ``None`` for a field of numeric
            values or a mask.

    Raises:
        ShapeError: if the network declares another number of inputs, saying how many it needs.
        DataError: before training or evaluation, if the field contains values other than the
            categories from 0 to ``categories - 1``; the message names the row.

    Source: Sohn, Lee & Yan 2015, "Learning structured output representation using deep conditional
    generative models".

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     prior=lb.Given(lb.Gaussian(lb.mlp(10, 4)), "label", categories=10),
        ...     posterior=lb.Given(lb.Gaussian(lb.mlp((11, 8, 8), 32, 4)), "label", categories=10),
        ...     likelihood=lb.Given(lb.Bernoulli(lb.mlp(12, 9, (1, 8, 8))), "label", categories=10),
        ... )
        >>> vae.sample(5, label=3).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, part: nn.Module, field: str, categories: int | None = None) -> None:
        super().__init__(part)
        if not isinstance(field, str):
            raise SettingsError(
                f"Given: field={field!r} must be the name of a field, such as 'label'"
            )
        self.field = field
        self.needs = tuple(dict.fromkeys((field, *self.needs)))
        self.accepts = tuple(name for name in self.accepts if name != field)
        self.categories = categories
        if categories is not None:
            self.categories = check_whole_number("Given: categories", categories)
        self._is_innermost = not any(isinstance(module, Given) for module in part.modules())

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution, given these values and the fields that are needed."""
        inputs = self._append_field(given, fields[self.field])
        return cast(Distribution, self.part(*inputs, **select_fields(self.part, fields)))

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor:
        """The output of the network for these values and the field."""
        inputs = self._append_field(given, fields[self.field])
        return super().parameters_from(network, *inputs, **fields)

    def check_fields(self, fields: Mapping[str, Tensor], rows: Tensor, name: str = "data") -> None:
        """Refuse values that are not categories.

        Raises:
            DataError: naming the field and the first such row.
        """
        value = fields.get(self.field)
        if value is None:
            return
        where = f"{name}: the field {self.field!r}"
        if self.categories is None:
            if not value.is_floating_point() and value.dtype != torch.bool:
                raise DataError(
                    f"{where} contains integers, which count as categories; pass "
                    f"lb.Given(..., {self.field!r}, categories=...), or give floating-point values "
                    "if they are not categories"
                )
            return
        entries = value.reshape(len(value), -1)
        if entries.dtype == torch.bool:
            entries = entries.long()
        bad = (entries != entries.round()) | (entries < 0) | (entries >= self.categories)
        if bool(bad.any()):
            place = int(bad.any(1).nonzero()[0])
            worst = entries[place][bad[place]][0].item()
            raise DataError(
                f"{where} is {worst:g} in row {int(rows[place])}, and its {self.categories} "
                f"categories are the whole numbers from 0 to {self.categories - 1}; correct the "
                "field, or pass categories=..."
            )

    def _append_field(self, given: tuple[Tensor, ...], value: Tensor) -> tuple[Tensor, ...]:
        """Append the field to the first input."""
        if not given:
            return (self._as_columns(value, self._find_dtype()),)
        x, *others = given
        event_dims = self._count_event_dims(x)
        axis = -event_dims
        if event_dims == 1:
            appended = self._as_columns(value, x.dtype)
        else:
            appended = self._as_channels(value, x.dtype, x.shape[axis + 1 :])
        leading = x.shape[:axis]
        if leading[-1:] != appended.shape[:1]:
            raise ShapeError(
                f"Given: the field {self.field!r} has {len(appended)} entries for inputs of shape "
                f"{tuple(x.shape)}; expected one for each example"
            )
        extended = torch.cat([x, appended.expand(*leading, *appended.shape[1:])], axis)
        self._check_inputs(extended.shape[axis:], appended.shape[1])
        return (extended, *others)

    def _as_columns(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """The field as a vector for each example, ``[B, M]``."""
        return self._encode_field(value, dtype).reshape(len(value), -1)

    def _as_channels(self, value: Tensor, dtype: torch.dtype, sides: torch.Size) -> Tensor:
        """The field as channels of a picture for each example, ``[B, M, *sides]``."""
        if value.dim() <= len(sides) or value.shape[-len(sides) :] != sides:
            columns = self._as_columns(value, dtype)
            return columns.reshape(*columns.shape, *(1,) * len(sides)).expand(-1, -1, *sides)
        coded = self._encode_field(value, dtype)
        if self.categories is not None:
            coded = coded.movedim(-1, 1)
        return coded.reshape(len(value), -1, *sides)

    def _encode_field(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Encode categories as one-hot codes in a new dimension; numeric values are unchanged."""
        if self.categories is None:
            return value.to(dtype)
        # Unlike torch's one_hot this does not wait for the device, so it compiles. check_fields has
        # refused values that are not categories.
        categories = torch.arange(self.categories, device=value.device)
        return (value.unsqueeze(-1) == categories).to(dtype)

    def _count_event_dims(self, x: Tensor) -> int:
        """Count the dimensions of one input, as the network declares them.

        Without a declaration, up to three dimensions are vectors ``[K, B, J]``, and more are
        pictures ``[B, C, H, W]``.
        """
        declared = self._find_declared_input()
        if declared is not None:
            return len(declared)
        if x.dim() <= 3:
            return 1
        return 3

    def _find_declared_input(self) -> tuple[int, ...] | None:
        inside = unwrap(self.part)
        return getattr(getattr(inside, "network", inside), "input_shape", None)

    def _find_dtype(self) -> torch.dtype:
        return next(
            (p.dtype for p in self.part.parameters() if p.is_floating_point()),
            torch.get_default_dtype(),
        )

    def _check_inputs(self, shape: torch.Size, appended: int) -> None:
        declared = self._find_declared_input()
        if declared is None or not self._is_innermost or tuple(shape) == tuple(declared):
            return
        raise ShapeError(
            f"Given: with {appended} inputs for the field {self.field!r} the network's input has "
            f"the shape {tuple(shape)}, but the network takes {tuple(declared)}; make the "
            f"network for {tuple(shape)}"
        )


@describable
class Masked(Wrapper):
    r"""A likelihood that scores only the entries that were observed.

    .. math:: \log p(x_{\text{observed}} \mid z) = \sum_{d\ \text{observed}} \log p(x_d \mid z)

    Which entries were observed is the field ``observed`` of the examples, boolean, of the shape of
    an example. If the examples have no such field, all entries are scored. Draws and means are of
    all entries, so ``reconstruct`` fills in the missing ones. To give the mask to the encoder, wrap
    the encoder in ``lb.Given(posterior, "observed")``, which doubles its inputs. The bound is one
    on the log probability of the observed entries, which is the right goal if entries are missing
    at random.

    Args:
        part: a likelihood with independent entries, such as :class:`Gaussian` or
            :class:`Bernoulli`, or one that returns torch's ``Independent``.

    Raises:
        UnsupportedError: at the first draw, if the entries are not independent.

    Source: Mattei & Frellsen 2019, "MIWAE: deep generative modelling and imputation of incomplete
    data sets"; Nazábal et al. 2020.

    Example:
        >>> import torch, lowerbound as lb
        >>> x = torch.randn(20, 3)
        >>> seen = torch.rand(20, 3) < 0.8
        >>> data = lb.Examples(x.where(seen, 0.0), fields={"observed": seen})
        >>> vae = lb.LatentModel(
        ...     prior=lb.StandardNormal(2),
        ...     posterior=lb.Given(lb.Gaussian(lb.mlp(6, 8, 4)), "observed"),
        ...     likelihood=lb.Masked(lb.Gaussian(lb.mlp(2, 8, 6))),
        ... )
        >>> lb.evaluate(vae, lb.ELBO(), data).per_example.shape, vae.reconstruct(data).shape
        (torch.Size([20]), torch.Size([20, 3]))
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__(part)
        if OBSERVED not in self.needs:
            self.accepts = tuple(dict.fromkeys((OBSERVED, *self.accepts)))

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution, masked if the field ``observed`` is given."""
        p = cast(Distribution, self.part(*given, **select_fields(self.part, fields)))
        if OBSERVED not in fields:
            return p
        return MaskedDistribution(p, fields[OBSERVED])

    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Start the likelihood inside from the observed entries."""
        if OBSERVED in fields:
            x = x.masked_fill(~fields[OBSERVED], math.nan)
        super().start_from(x, **fields)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse the observed entries that the likelihood inside refuses."""
        observed = fields.get(OBSERVED)
        if observed is not None:
            x, rows, fields = keep_entries(observed, x, rows, fields)
        super().check_data(x, rows, name, **fields)


def keep_entries(
    kept: Tensor, x: Tensor, rows: Tensor, fields: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Replace entries that need no check by copies of an entry of their row that needs one.

    Rows without such an entry are left out.

    Args:
        kept: which entries are kept, because they need the check, ``[B, *event]``.
        x: data, ``[B, *event]``.
        rows: the positions of the examples in the dataset, ``[B]``.
        fields: fields of the examples, ``[B, ...]`` each.
    """
    some = kept.flatten(1).any(1)
    x, rows, kept = x[some], rows[some.to(rows.device)], kept[some]
    first = kept.flatten(1).int().argmax(1, keepdim=True)
    copies = x.flatten(1).gather(1, first)
    x = x.where(kept, copies.reshape(-1, *(1,) * (x.dim() - 1)))
    return x, rows, {name: value[some] for name, value in fields.items()}
