"""How the densities of a long evaluation are computed, compiled or not: decided by a few timed chunks, told in one line."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.compiler import WORTH_COMPILING, Choice, asked, failure, is_the_compilers, synchronize
from lowerbound.models import LatentModel, Model, device_of

# Chunks before the timed ones, in which memory is allocated and caches fill, and the timed ones.
_FIRST, _TIMED = 1, 3


class PacedLikelihood(nn.Module):
    """A model's p(x given z) for one evaluation, whose density is computed as torch's compiler made it where that is quicker.

    A chunk of draws of another shape than the first is always taken uncompiled, for it would have to be compiled for itself.

    Args:
        likelihood: the model's own.
        choice: ``"auto"``: compiled where the evaluation is long enough to gain by it, and a few chunks show that it does.
            ``"always"``: from the second chunk on.
        pairs: of a sample and an example, that there will be in all.
        device: of the model.
    """

    def __init__(self, likelihood: nn.Module, choice: Choice, pairs: int, device: torch.device) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.choice, self.left, self.device = choice, pairs, device
        self.shape, self.event = Size(), Size()
        self.compiled: Callable[[Tensor, Tensor], Tensor] | None = None
        self.seconds: list[float] = []
        self.uncompiled_seconds = 0.0
        self.decided = False
        self.line: str | None = None
        self.began = time.perf_counter()

    def forward(self, z: Tensor) -> Distribution:
        """The likelihood, given latents ``[K, B, J]``."""
        if self.compiled is not None and z.shape == self.shape:
            return _Later(self, z)
        p: Distribution = self.likelihood(z)
        if isinstance(p, Distribution):
            self.event = p.event_shape
        return p

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x given z), ``[K, B]``, compiled unless the compiler fails."""
        if self.compiled is not None:
            try:
                return self.compiled(z, x)
            except Exception as error:
                if not is_the_compilers(error):
                    raise
                self._settle(failure(error), compiled=False)
        return _log_prob(self.likelihood, z, x)

    def done(self, z: Tensor) -> None:
        """The chunk with these latents, ``[K, B, J]``, is done: time it, and decide how to go on."""
        self.shape = self.shape or z.shape
        self.left -= z[..., 0].numel()
        if self.decided:
            return
        synchronize(self.device)
        now = time.perf_counter()
        if z.shape == self.shape:
            self.seconds.append(now - self.began)
            self._consider()
        self.began = now

    def _consider(self) -> None:
        if self.choice == "always":
            if self.compiled is None:
                self._compile()
            else:
                self._settle(f"{self.seconds[0]:.0f} s to compile")
        elif len(self.seconds) == _FIRST + _TIMED:
            seconds = median(self.seconds[_FIRST:])
            if self.compiled is not None:
                quicker = seconds < self.uncompiled_seconds
                figures = f"{1e3 * seconds:.3g} ms a chunk compiled, {1e3 * self.uncompiled_seconds:.3g} ms uncompiled"
                self._settle(f"{figures}; {self.seconds[0]:.0f} s to compile", compiled=quicker)
            elif self.left / self.shape[:2].numel() * seconds < WORTH_COMPILING:
                self.decided = True
            else:
                self.uncompiled_seconds = seconds
                self._compile()

    def _compile(self) -> None:
        """From the next chunk on, which waits for the compiler."""
        self.seconds = []
        likelihood = self.likelihood
        try:
            self.compiled = torch.compile(lambda z, x: _log_prob(likelihood, z, x), fullgraph=True, **asked())
        except RuntimeError as error:  # as where it does not know this version of Python
            self._settle(failure(error), compiled=False)

    def _settle(self, reason: str, compiled: bool = True) -> None:
        """Go on like this to the end."""
        self.decided = True
        if not compiled:
            self.compiled = None
        self.line = f"{'compiled' if compiled else 'uncompiled'}: {reason}"


class _Later(Distribution):
    """Latents whose likelihood is computed when there are data to be scored."""

    def __init__(self, paced: PacedLikelihood, z: Tensor) -> None:
        self.paced, self.z = paced, z
        super().__init__(z.shape[:2], paced.event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x given z), ``[K, B]``."""
        return self.paced.log_prob(self.z, value)


def paced(model: Model, choice: Choice, pairs: int) -> tuple[Model, PacedLikelihood | None]:
    """A model that draws as this one does, and its likelihood that is to be told of each chunk; ``None`` where none is compiled.

    Args:
        model: whose likelihood may be compiled if it is a latent-variable model whose draws are the usual ones.
        choice: whether to, see :class:`PacedLikelihood`.
        pairs: of a sample and an example, that there will be in all.
    """
    usual = isinstance(model, LatentModel) and (type(model).draw, type(model).draws) == (
        LatentModel.draw,
        LatentModel.draws,
    )
    if choice == "never" or not usual:
        return model, None
    assert isinstance(model, LatentModel)
    likelihood = PacedLikelihood(model.likelihood, choice, pairs, device_of(model))
    return LatentModel(model.prior, model.posterior, likelihood), likelihood


def _log_prob(likelihood: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    log_prob: Tensor = likelihood(z).log_prob(x)
    return log_prob
