"""Models of tables, whose columns are of several types and may be missing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound.conditionals.columns import Columns
from lowerbound.conditionals.given import unwrap
from lowerbound.conditionals.self_masked import SelfMasked
from lowerbound.data.columns import Floats, Schema
from lowerbound.data.dataset import Dataset
from lowerbound.data.examples import Examples
from lowerbound.data.fields import MISSING, OBSERVED
from lowerbound.data.frames import is_frame, make_frame, open_table, take_rows
from lowerbound.data.schema import (
    decode_columns,
    make_table,
    make_table_examples,
    make_table_like,
)
from lowerbound.data.table_files import load_if_path, read_rows
from lowerbound.describe import describable
from lowerbound.distributions import choose_distributions, choose_point
from lowerbound.errors import DoubtfulEstimateWarning, SettingsError, UnsupportedError
from lowerbound.models.conditioned import ConditionedParts
from lowerbound.models.latent import LatentModel
from lowerbound.models.passes import iterate_batches
from lowerbound.models.plan import TrainingPlan
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.memory import keeping_freed_memory
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

FEWEST_EFFECTIVE = 10.0
"""Rows that are completed from fewer effective samples than this are not to be trusted."""

# The number of values that the largest tensor of one batch of completed rows may hold: 2^22 floats
# are 16 MiB, most of which stay in a processor's caches from one layer of a network to the next.
_MOST_VALUES = 1 << 22


@describable
class TableModel(LatentModel):
    r"""A latent-variable model of the rows of a table, with any entries missing.

    It takes frames, and answers with frames: :meth:`sample`, :meth:`encode` and :meth:`reconstruct`
    return the columns of the table with their names and types. Columns are found by their names.

    In training, some further entries of half of the rows are hidden at random, from the encoder and
    from the likelihood, so that the encoder learns to infer z from any of the columns. The bound of
    a training batch is that of the entries which are not hidden. Nothing is hidden in evaluations.

    Args:
        prior: p(z).
        posterior: q(z|x), which needs the field ``observed``, such as
            ``lb.Given(lb.Gaussian(network), "observed")`` with a network that begins with
            :class:`lowerbound.ColumnInputs`.
        likelihood: ``lb.Masked(lb.Columns(network, schema))``, if values are missing at random; or
            ``lb.SelfMasked(lb.Columns(network, schema))``, which also models why they are missing.
        hide: the share of the rows of a training batch in which some entries are hidden.

    Raises:
        UnsupportedError: if the likelihood is not made of :class:`lowerbound.Columns`.
        SettingsError: for a share that is not from 0 to 1.

    Attributes:
        LARGE: from this number of training rows on, the default learning rate is 0.002 in place of
            0.001, because a larger network learns from many rows in the same number of steps.

    Source: Ma et al. 2019, "EDDI: efficient dynamic discovery of high-value information with
    partial VAE"; Ivanov, Figurnov & Vetrov 2019, "Variational autoencoder with arbitrary
    conditioning".

    Example:
        >>> import pandas as pd
        >>> import lowerbound as lb
        >>> ages, jobs = [34, 51, 28, 45] * 10, ["cook", None, "cook", "clerk"] * 10
        >>> frame = pd.DataFrame({"age": ages, "job": jobs})
        >>> model, objective = lb.recipes.table(lb.load_data(frame), latent=2, hidden=8, seed=0)
        >>> list(model.sample(3).columns), model.encode(frame).shape
        (['age', 'job'], (40, 2))
    """

    LARGE: ClassVar[int] = 15_000

    def __init__(
        self, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module, hide: float = 0.5
    ) -> None:
        super().__init__(prior, posterior, likelihood)
        if not isinstance(unwrap(likelihood), Columns):
            raise UnsupportedError(
                f"TableModel: a {type(unwrap(likelihood)).__name__} does not know the columns of a "
                "table; use lb.Masked(lb.Columns(network, schema))"
            )
        if not 0 <= hide <= 1:
            raise SettingsError(f"TableModel: hide={hide!r} must be a share from 0 to 1")
        self.hide = hide
        order = {column.name: number for number, column in enumerate(self.schema.modelled)}
        columns = torch.tensor([order[entry.column] for entry in self.schema.entries])
        self.register_buffer("_columns", columns, persistent=False)

    @property
    def schema(self) -> Schema:
        """The columns of the table."""
        columns: Any = unwrap(self.likelihood)
        found: Schema = columns.schema
        return found

    @property
    def hides_entries(self) -> bool:
        """Whether some entries of training batches are hidden, and left out of their bound."""
        return self.hide > 0

    def log_odds_of_missing(self, rows: Tensor) -> dict[str, Tensor]:
        """The log odds that columns are missing, given their values, as the model has learned them.

        Args:
            rows: complete rows as numbers of the schema, ``[*leading, D]``.

        Returns:
            ``[*leading]`` by the name of the column, for each column whose missing values the model
            explains by their size; none, if it takes them as missing at random.
        """
        if isinstance(self.likelihood, SelfMasked):
            return self.likelihood.log_odds(rows)
        return {}

    def examples(self, data: Any, *, name: str = "data") -> Examples:
        """The rows of a table as examples.

        Columns are found by their names: their order does not matter, and a column that the table
        does not have is not observed.

        Args:
            data: a frame, the path of a file with a table, or examples that
                :func:`lowerbound.load_data` made with the columns of this model.
            name: the name of the data in messages.

        Raises:
            DataError: for a column of another type, or a category that the model does not know; for
                examples of other columns.
        """
        if isinstance(data, Dataset):
            data = data.all()
        return read_rows(data, self.schema, name=name)

    def training_plan(self, data: Any) -> TrainingPlan:
        """The default learning rate of a large table is higher."""
        plan = super().training_plan(data)
        if len(plan.examples) < self.LARGE:
            return plan
        return replace(plan, learning_rate=0.002)

    def conditioned(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> ConditionedParts:
        """The parts for a batch. In training, some of its entries are hidden."""
        given = dict(given or {})
        if self.training and self.hide and OBSERVED in given:
            shown = self._show_some(len(x), x.device)
            # Whether a hidden column is missing is hidden, too: otherwise missing entries would be
            # scored more often than observed ones, and so the odds learned would be too high.
            given[MISSING] = given.get(MISSING, ~given[OBSERVED]) & shown
            given[OBSERVED] = given[OBSERVED] & shown
        return super().conditioned(x, given)

    def _show_some(self, rows: int, device: torch.device) -> Tensor:
        """Hide a random share of the columns of some rows: which entries are not, ``[B, D]``."""
        columns = len(self.schema.modelled)
        chosen = torch.rand(rows, 1, device=device) < self.hide
        shares = torch.rand(rows, 1, device=device) * chosen
        shown = torch.rand(rows, columns, device=device) >= shares
        buffers: Any = self
        return shown[:, buffers._columns]

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        count: int,
        *,
        given: Any = None,
        mean: bool = False,
        seed: int | None = None,
        samples: int = 1000,
    ) -> Any:
        """Draw rows: new ones, or ones that agree with what is known.

        Args:
            count: the number of rows; with ``given``, that for each of its rows.
            given: a frame, or the path of a file, with some of the columns, which may have missing
                entries. Those that are there are kept, and the others are drawn from their
                distribution given these, by importance resampling: z from q(z given the known
                entries), chosen in proportion to its weights, and then the columns from p(x|z). The
                cost does not depend on how rare the known entries are. Identifiers, constant
                columns and unknown categories are kept, too.
            mean: give the natural point of p(x|z) instead of a draw from it: the most
                probable category, and the median of positive numbers and proportions.
            seed: makes the draws reproducible, and leaves torch's own generator as it was.
            samples: the number of draws of z from which those given known entries are chosen.

        Returns:
            A frame of the library of ``given``, with the types of its columns. Without ``given``,
            both are those of the training table. In pandas, draws have the index of the row of
            ``given`` to which they belong.

        Raises:
            DataError: if ``given`` has none of the columns, or an entry is not possible.

        Warns:
            DoubtfulEstimateWarning: if a row of ``given`` has fewer than 10 effective samples.
        """
        if given is None:
            values = super().sample(count, mean=mean, seed=seed)
            return make_table(decode_columns(values, self.schema), self.schema)
        rows, effective = self.sample_given(given, count, mean=mean, seed=seed, samples=samples)
        worst = float(effective.min())
        if worst < min(FEWEST_EFFECTIVE, samples):
            warnings.warn(
                f"sample: the draws of a row that is given come from {worst:.1f} effective samples "
                f"of {samples:,}; use more samples=",
                DoubtfulEstimateWarning,
                stacklevel=2,
            )
        return rows

    @torch.no_grad()
    def sample_given(
        self,
        given: Any,
        count: int = 1,
        *,
        mean: bool = False,
        seed: int | None = None,
        samples: int = 1000,
    ) -> tuple[Any, Tensor]:
        """Draw rows given known entries, and say from how many effective samples they come.

        See :meth:`sample`, which warns instead if a row has few effective samples.

        Returns:
            A frame with ``count`` rows for each row of ``given``, and the effective sample size of
            each row of ``given``, ``[N]``, of the ``samples`` draws of z.
        """
        given = load_if_path(given, self.schema)
        count = check_whole_number("sample: count", count)
        samples = check_whole_number("sample: samples", samples)
        examples = make_table_examples(given, self.schema, name="given", partial=True)
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        seed = derived_seed(check_seed("sample", seed), "sample")
        parts, effective = [], []
        for values, log_w in complete_rows(
            self, examples, samples=samples, draws=count, seed=seed, mean=mean
        ):
            parts.append(values.transpose(0, 1).flatten(0, 1))
            effective.append(count_effective_samples(log_w).cpu())
        drawn = decode_columns(torch.cat(parts), self.schema)
        rows = take_rows(given, np.repeat(np.arange(len(examples)), count))
        made = make_table_like(rows, drawn, self.schema, keeps_entries=True)
        return made, torch.cat(effective)

    def reconstruct(self, data: Any, **given: Any) -> Any:
        """The natural points of p(x|z), see :meth:`~lowerbound.models.GenerativeModel.reconstruct`.

        For a frame the answer is a frame with the same index and the types of its columns, for the
        path of a file one of pyarrow, and for examples a tensor.
        """
        data = load_if_path(data, self.schema)
        values = super().reconstruct(data, **given)
        if not is_frame(data):
            return values
        columns = decode_columns(values, self.schema)
        return make_table_like(data, columns, self.schema, keeps_entries=False)

    def encode(self, data: Any) -> Any:
        """The natural point of q(z|x), see :meth:`LatentModel.encode`.

        For a frame the answer is a frame with the columns ``z0``, ``z1`` and so on and the same
        index, for the path of a file one of pyarrow, and for examples a tensor.
        """
        data = load_if_path(data, self.schema)
        points = super().encode(data)
        if not is_frame(data):
            return points
        columns: dict[str, Floats] = {
            f"z{number}": values.numpy()
            for number, values in enumerate(points.cpu().flatten(1).unbind(1))
        }
        opened = open_table(data)
        return make_frame(columns, opened.library or "pandas", opened.index)


@torch.no_grad()
def complete_rows(
    model: TableModel,
    examples: Examples,
    *,
    samples: int,
    draws: int,
    seed: int,
    mean: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw the entries that are not observed, given those that are, batch by batch.

    Latents are drawn from q, and chosen in proportion to their importance weights.

    Args:
        model: the model.
        examples: the rows.
        samples: K, the number of latents from which ``draws`` are chosen.
        draws: M, the number of completed rows for each row.
        seed: of the draws, which do not depend on the batches.
        mean: whether to take the mean of p(x|z) instead of a draw from it.

    Yields:
        Completed rows as numbers of the schema, ``[M, B, D]``, and log weights, ``[K, B]``.
    """
    size = max(1, _MOST_VALUES // (max(samples, draws) * model.numbers_per_draw(examples)))
    with evaluating(model), seeded(seed, get_device(model)), keeping_freed_memory():
        for _, x, given in iterate_batches(examples, model, seed=seed, batch_size=size):
            draw = model.draw(x, samples, **given)
            index = choose_by_weight(draw.log_w, draws)
            # Each draw of z was decoded for its weight, which takes most of the time.
            assert draw.p is not None
            p = choose_distributions(draw.p, index)
            with noise.for_foreign(draws, len(x), of_pairs=True):
                new = choose_point(p, get_device(model)) if mean else p.sample()
            observed = given.get(OBSERVED)
            if observed is not None:
                new = torch.where(observed, x, new)
            yield new, draw.log_w


def count_effective_samples(log_w: Tensor) -> Tensor:
    """The effective sample size of each example's weights, ``[B]``, for log weights ``[K, B]``.

    It is 0 for an example without any probability.
    """
    shares = log_w.double().softmax(0)
    effective: Tensor = 1 / shares.square().sum(0)
    return effective.nan_to_num(0.0)


def choose_by_weight(log_w: Tensor, count: int) -> Tensor:
    """Choose draws in proportion to their weights, with replacement: their numbers ``[M, B]``.

    Args:
        log_w: ``[K, B]``.
        count: M.
    """
    log_w = log_w.double()
    # All draws of a row without any probability count alike, so that other rows are completed.
    impossible = ~torch.isfinite(log_w.logsumexp(0))
    shares = log_w.masked_fill(impossible, 0.0).softmax(0).cumsum(0)
    u = noise.uniform((count, shares.shape[1]), 1, dtype=torch.float64, device=shares.device)
    places = torch.searchsorted(shares.T.contiguous(), u.T.contiguous()).T
    return places.clamp(max=len(shares) - 1)
