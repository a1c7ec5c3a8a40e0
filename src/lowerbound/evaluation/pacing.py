"""How the densities of a long evaluation are computed, compiled or not: decided by a few timed chunks, told in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

from torch import Size, Tensor
from torch.distributions import Distribution

from lowerbound.conditionals import Conditional
from lowerbound.models import Draw, LatentModel, Model
from lowerbound.runtime.compiler import WORTH_COMPILING, Choice, compiled, failure, is_the_compilers
from lowerbound.runtime.devices import device_of, synchronize
from lowerbound.runtime.modes import seeded

# Chunks before the timed ones, in which memory is allocated and caches fill, and the timed ones.
_FIRST, _TIMED = 1, 3


class PacedLikelihood:
    """A model's p(x given z) for one evaluation, whose density is computed as torch's compiler made it where that is quicker.

    A chunk of draws of another shape than the first is always taken uncompiled, for it would have to be compiled for itself.

    Args:
        model: whose likelihood it is.
        choice: ``"auto"``: compiled where the evaluation is long enough to gain by it, and a few chunks show that it does.
            ``"always"``: from the second chunk on.
        pairs: of a sample and an example, that there will be in all.
    """

    def __init__(self, model: LatentModel, choice: Choice, pairs: int) -> None:
        self.likelihood, self.device = model.likelihood, device_of(model)
        self.plain = _scorer(model.likelihood)
        self.choice, self.left = choice, pairs
        self.shape, self.event = Size(), Size()
        self.compiled: Callable[[Tensor, Tensor], Tensor] | None = None
        self.checked: Tensor | None = None  # the last data that were
        self.seconds: list[float] = []
        self.uncompiled_seconds = 0.0
        self.decided = False
        self.verdict: str | None = None
        self.began = time.perf_counter()

    @property
    def line(self) -> str | None:
        """What was decided, and why; ``None`` where nothing was to be decided."""
        if self.verdict is not None or (self.compiled is None and self.choice == "auto"):
            return self.verdict
        if self.compiled is not None and self.seconds:  # it ended before it was decided
            return f"compiled: {self._to_compile()}"
        return "uncompiled: there was one chunk only, or no second one of the same shape"

    def __call__(self, z: Tensor) -> Distribution:
        """The likelihood, given latents ``[K, B, *latent]``."""
        if self.compiled is not None and z.shape == self.shape:
            return _Later(self, z)
        p: Distribution = self.likelihood(z)
        if isinstance(p, Distribution):
            self.event = p.event_shape
        return p

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x given z), ``[K, B]``, compiled unless the compiler fails."""
        if self.compiled is not None:
            self._check(z, x)
            try:
                log_prob: Tensor = self.compiled(z, x)
            except Exception as error:
                if not is_the_compilers(error):
                    raise
                self._settle(failure(error), compiled=False)
            else:
                return log_prob
        return self.plain(z, x)

    def _check(self, z: Tensor, x: Tensor) -> None:
        """Have the data of each batch checked by a distribution of another library, which does not when it is compiled."""
        if self.checked is not x and not isinstance(self.likelihood, Conditional):
            with seeded(0, self.device):
                self.plain(z[:1], x)
        self.checked = x

    def done(self, z: Tensor) -> None:
        """The chunk with these latents, ``[K, B, *latent]``, is done: time it, and decide how to go on."""
        self.shape = self.shape or z.shape
        self.left -= z.shape[:2].numel()
        if self.decided:
            return
        synchronize(self.device)
        now = time.perf_counter()
        if z.shape == self.shape:
            self.seconds.append(now - self.began)
            self._consider()
        self.began = time.perf_counter()

    def _consider(self) -> None:
        if self.choice == "always":
            if self.compiled is None:
                self._compile()
            else:
                self._settle(self._to_compile())
        elif len(self.seconds) == _FIRST + _TIMED:
            seconds, chunks = median(self.seconds[_FIRST:]), self.left / self.shape[:2].numel()
            if self.compiled is not None:
                quicker = seconds < self.uncompiled_seconds
                figures = f"{1e3 * seconds:.3g} ms a chunk compiled, {1e3 * self.uncompiled_seconds:.3g} ms uncompiled"
                self._settle(f"{figures}; {self._to_compile()}", compiled=quicker)
            elif chunks * seconds < WORTH_COMPILING or chunks < 2 * len(self.seconds):
                self.decided = True
            else:
                self.uncompiled_seconds = seconds
                self._compile()

    def _compile(self) -> None:
        """From the next chunk on, which waits for the compiler."""
        self.seconds = []
        try:
            self.compiled = compiled(self.plain)
        except RuntimeError as error:  # as where it does not know this version of Python
            self._settle(failure(error), compiled=False)

    def _to_compile(self) -> str:
        return f"{self.seconds[0]:.0f} s to compile"

    def _settle(self, reason: str, compiled: bool = True) -> None:
        """Go on like this to the end."""
        self.decided = True
        if not compiled:
            self.compiled = None
        self.verdict = f"{'compiled' if compiled else 'uncompiled'}: {reason}"


def _scorer(likelihood: Callable[[Tensor], Distribution]) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(x given z) of z and x: it holds no more than the likelihood, so that no more is compiled."""

    def log_prob(z: Tensor, x: Tensor) -> Tensor:
        found: Tensor = likelihood(z).log_prob(x)
        return found

    return log_prob


class _Later(Distribution):
    """Latents whose likelihood is computed when there are data to be scored."""

    def __init__(self, paced: PacedLikelihood, z: Tensor) -> None:
        self.paced, self.z = paced, z
        super().__init__(z.shape[:2], paced.event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x given z), ``[K, B]``."""
        return self.paced.log_prob(self.z, value)


def paced(
    model: Model, choice: Choice, pairs: int
) -> tuple[Callable[..., Iterator[Draw]], PacedLikelihood | None]:
    """A model's ``draws``, and its likelihood in them that is to be told of each chunk; ``None`` where it is not to be compiled.

    Args:
        model: whose likelihood may be compiled if it is a latent-variable model whose draws are the usual ones.
        choice: whether to, see :class:`PacedLikelihood`.
        pairs: of a sample and an example, that there will be in all.
    """
    usual = LatentModel.draw, LatentModel.draws
    if model.needs or model.accepts:
        return model.draws, None
    if (
        choice == "never"
        or not isinstance(model, LatentModel)
        or (type(model).draw, type(model).draws) != usual
    ):
        return model.draws, None
    likelihood = PacedLikelihood(model, choice, pairs)
    return partial(model.draws, likelihood=likelihood), likelihood
