"""log p(x|z) for a long evaluation, compiled if that is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from lowerbound.conditionals import Conditional
from lowerbound.models import LatentModel, LayeredModel, Model
from lowerbound.models.sampling import make_score
from lowerbound.runtime.autotune import Autotuner, Option
from lowerbound.runtime.compiler import Choice, CompiledFunction
from lowerbound.runtime.modes import seeded
from lowerbound.runtime.products import ProductChoice, make_product_options

Score = Callable[..., Tensor]

# The number of chunks before the timed ones, while memory is allocated and caches fill, and the
# number of timed chunks.
_WARMUP_CHUNKS, _TIMED_CHUNKS = 1, 3


def can_tune(model: Model) -> TypeGuard[LatentModel | LayeredModel]:
    """Whether a model takes a score, because a subclass does not override how it draws."""
    own = type(model).draw, type(model).draws
    return any(own == (kind.draw, kind.draws) for kind in (LatentModel, LayeredModel))


class TunedScore:
    """log p(x|z) of chunks of draws.

    A chunk of another shape than the first runs uncompiled, because it would need a compilation of
    its own.

    Args:
        likelihood: p(x|z).
        choice: ``"auto"``: compile if the evaluation is long enough, and a few chunks show that
            compiled ones are faster. ``"always"``: compile from the second chunk on.
        device: of the model.
        pairs: the total number of pairs of a sample and an example.
    """

    def __init__(
        self,
        likelihood: Callable[..., Distribution],
        choice: Choice,
        device: torch.device,
        pairs: int,
    ) -> None:
        self.likelihood, self.device, self.left = likelihood, device, pairs
        self.plain = make_score(likelihood)
        self.shape: Size | None = None
        self.last = Size()
        """The shape of the latents that were scored last, ``[K, B, *latent]``."""
        self.checked: Tensor | None = None
        self.products = ProductChoice(device)
        self.tuner: Autotuner[Score] = Autotuner(
            choice,
            self._build,
            device,
            unit="chunk",
            warmup=_WARMUP_CHUNKS,
            timed=_TIMED_CHUNKS,
            fewest_left=2 * (_WARMUP_CHUNKS + _TIMED_CHUNKS),
            in_pieces=False,
        )
        self.tuner.start()

    def __call__(self, z: Tensor, x: Tensor, **fields: Tensor) -> Tensor:
        """log p(x|z), ``[K, B]``."""
        self.last = z.shape
        if z.shape != self.shape:
            return self.products.run(lambda: self.plain(z, x, **fields))
        return self.tuner.run(lambda option, score: score(z, x, **fields))

    def finish_chunk(self) -> None:
        """Record that the chunk that was scored last is finished."""
        pairs = self.last[:2].numel()
        self.left -= pairs
        if self.shape is None:
            self.shape = self.last
        if self.last == self.shape:
            self.tuner.stop(self.left / pairs)
        self.tuner.start()

    @property
    def line(self) -> str | None:
        """The choice and its reason; ``None`` if compiling was not worth a trial."""
        tuner = self.tuner
        if tuner.tried_compiling and tuner.line is not None:
            return tuner.line
        if tuner.option.compiled and tuner.times:  # it ended before the choice was made
            return f"compiled: {tuner.times[0]:.0f} s to compile"
        if tuner.choice == "auto":
            return None
        return "uncompiled: the compiler needs a second chunk of the same shape as the first"

    def _build(self, option: Option, whole: bool) -> Score:
        if not option.compiled:
            return self.plain
        options = make_product_options(self.products.make())
        made: Score = CompiledFunction(self.plain, **options)
        if isinstance(self.likelihood, Conditional):
            return made

        def score(z: Tensor, x: Tensor, **fields: Tensor) -> Tensor:
            # torch's distributions check their data, but not when compiled. So each batch of data
            # is scored once uncompiled.
            if x is not self.checked:
                with seeded(0, self.device):
                    self.plain(z[:1], x, **fields)
                self.checked = x
            return made(z, x, **fields)

        return score
