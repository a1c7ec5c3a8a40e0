"""A likelihood of sequences of codes, each of which depends on those before it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import LOW_PRECISION, Conditional, to_full_precision
from lowerbound.describe import describable
from lowerbound.distributions import CodeSequence
from lowerbound.distributions.sequences import find_positions_after
from lowerbound.errors import DataError, SettingsError, UnsupportedError
from lowerbound.networks import set_output_bias
from lowerbound.networks.sequences import SequenceDecoder


@describable
class Autoregressive(Conditional):
    r"""Sequences of codes, such as text: each code depends on the latents and the codes before it.

    .. math:: \log p(x \mid z) = \sum_{t=1}^{T} \log p(x_t \mid z, x_1, \dots, x_{t-1})

    The data are codes (``kind="codes"``), ``[N, T]``. Sequences of different lengths are padded
    with the code ``end``: after the first ``end``, which is scored, everything is ``end`` with
    probability 1. Bits per dimension are then bits for each code up to the ``end``.

    A decoder that sees all previous codes can do without the latents, and the rate may collapse to
    0. ``word_dropout`` hides a share of the previous codes from the decoder in training, so the
    bound in training is lower than in evaluation. A warm-up of the KL term
    (``beta=lb.Ramp(...)``) or free bits help as well.

    Args:
        network: from the latents and the previous codes to the logits of each code, such as
            :func:`lowerbound.recurrent` or :func:`lowerbound.attention`; see
            :class:`~lowerbound.networks.SequenceDecoder` to write your own.
        end: the code that ends a sequence, or ``None`` if all sequences have ``T`` codes.
        word_dropout: the probability that a previous code is hidden in training.

    Raises:
        UnsupportedError: if the network is not a decoder of sequences.
        SettingsError: if ``end`` is not a code, or ``word_dropout`` not in [0, 1].

    Source: S. Bowman, L. Vilnis, O. Vinyals, A. Dai, R. Jozefowicz & S. Bengio, "Generating
    sentences from a continuous space" (2016).

    Example:
        >>> import lowerbound as lb
        >>> words = lb.Examples.of(torch.randint(27, (50, 12)), kind="codes")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(nn.Sequential(lb.embed(12, 27, 8), lb.conv((8, 12), 16, 4))),
        ...     lb.Autoregressive(lb.recurrent(2, 16, (12, 27)), word_dropout=0.3),
        ... )
        >>> lb.evaluate(vae, lb.ELBO(), words).per_example.shape, vae.sample(3).shape
        (torch.Size([50]), torch.Size([3, 12]))
    """

    def __init__(
        self, network: nn.Module, end: int | None = None, word_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(network, SequenceDecoder):
            raise UnsupportedError(
                f"Autoregressive: a {type(network).__name__} does not predict codes from those "
                "before them; use lb.recurrent, lb.attention, or a subclass of "
                "lowerbound.networks.SequenceDecoder"
            )
        self.network = network
        self.end = end
        self.word_dropout = word_dropout
        self.length, self.levels = network.length, network.levels
        if end is not None and not (isinstance(end, int) and 0 <= end < self.levels):
            raise SettingsError(
                f"Autoregressive: end={end!r} must be a code from 0 to {self.levels - 1}"
            )
        if not 0 <= word_dropout <= 1:
            raise SettingsError(
                f"Autoregressive: word_dropout={word_dropout!r} must be a probability, such as 0.3"
            )

    def forward(self, *given: Any, **fields: Any) -> CodeSequence:
        """The distribution of sequences given the latents, ``[*leading, *inputs]``."""
        return CodeSequence(self, self.network.flatten_input(given[0]), self.end)

    def predict_all(self, given: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code given those before it, ``[*batch, T, V]``."""
        unknown = torch.full_like(codes[..., :1], self.levels)
        previous = torch.cat([unknown, codes[..., :-1]], -1)
        if self.training and self.word_dropout:
            is_hidden = torch.rand(previous.shape, device=previous.device) < self.word_dropout
            previous = previous.masked_fill(is_hidden, self.levels)
        return self.parameters_from(self.network, self._shape_input(given), codes=previous)

    def begin(self, given: Tensor) -> Any:
        """The state before the first code."""
        own = next(self.network.parameters()).dtype
        if own in LOW_PRECISION:
            given = given.to(own)
        unknown = torch.full(given.shape[:-1], self.levels, device=given.device)
        return self.network.begin(self._shape_input(given)), unknown

    def predict_next(self, state: Any, previous: Tensor | None) -> tuple[Tensor, Any]:
        """Logits of the next code, ``[*batch, V]``, and the next state."""
        inner, unknown = state
        if previous is None:
            previous = unknown
        logits, inner = self.network.predict_next(inner, cast(Tensor, previous))
        return to_full_precision(logits), (inner, unknown)

    def _shape_input(self, given: Tensor) -> Tensor:
        return given.reshape(*given.shape[:-1], *self.network.inputs)

    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set the bias of the logits to the log frequencies of the codes, up to the ``end``."""
        codes = x.long()
        if self.end is not None:
            codes = codes[~find_positions_after(codes, self.end)]
        counts = torch.bincount(codes.flatten(), minlength=self.levels).to(x.dtype)
        set_output_bias(self.network, ((counts + 1) / (counts.sum() + self.levels)).log())

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse what is not a sequence of codes.

        Raises:
            DataError: naming the first such row, and the position.
        """
        wrong = (x != x.round()) | (x < 0) | (x >= self.levels)
        self._refuse(wrong, x, rows, name, f"codes are whole numbers from 0 to {self.levels - 1}")
        if self.end is not None:
            codes = x.long()
            wrong = find_positions_after(codes, self.end) & (codes != self.end)
            self._refuse(
                wrong,
                x,
                rows,
                name,
                f"only {self.end} may follow the code end={self.end}; pad shorter sequences with "
                f"{self.end}, or choose another end",
            )

    @staticmethod
    def _refuse(wrong: Tensor, x: Tensor, rows: Tensor, name: str, remedy: str) -> None:
        bad = wrong.any(1)
        if not bool(bad.any()):
            return
        place = int(bad.nonzero()[0])
        position = int(wrong[place].nonzero()[0])
        raise DataError(
            f"{name}: row {int(rows[place])} has {x[place, position].item():.6g} at position "
            f"{position}, but {remedy}"
        )
