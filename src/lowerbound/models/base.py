"""The base of all models."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from lowerbound.data.examples import Examples
from lowerbound.distributions import is_mass
from lowerbound.errors import SettingsError
from lowerbound.models.draw import Draw, Gradient
from lowerbound.models.measuring import measure_draw
from lowerbound.models.passes import batches, fitting
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.memory import values_per_pair
from lowerbound.runtime.modes import evaluating, seeded


class Model(nn.Module, ABC):
    """Anything that can draw its latents for some data.

    To write your own: subclass and implement :meth:`draw`. Every objective, :func:`lowerbound.fit` and
    :func:`lowerbound.evaluate` then work with it. A model that depends on fields of the examples, such
    as covariates, names them in :attr:`needs`, and :meth:`draw` receives them as keywords.
    """

    needs: tuple[str, ...] = ()
    """Names of the fields that each example must have."""

    accepts: tuple[str, ...] = ()
    """Names of the fields that the model is given where the examples have them."""

    @abstractmethod
    def draw(
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise", **given: Any
    ) -> Draw:
        """``samples`` draws of the latents of a batch ``x``, ``[B, *event]``.

        ``given`` holds the fields that the model needs, ``[B, ...]`` each.
        """

    def draws(
        self, x: Tensor, sizes: Iterable[int], gradient: Gradient = "pathwise", **given: Any
    ) -> Iterator[Draw]:
        """For each of ``sizes``, so many draws of the latents of one batch.

        Override it where something that does not depend on the draws can be computed once.
        """
        for samples in sizes:
            yield self.draw(x, samples, gradient, **given)

    repeats: bool = False
    """Whether examples are only repetitions, because the model holds its data itself."""

    in_batches: bool = False
    """Whether a batch stands for all data, whose draws it shares, so that only what is linear in log weights may be averaged over batches."""

    @property
    def shares_draws(self) -> bool:
        """Whether one set of latents is that of all data, as a log joint's variables are, and no example has its own."""
        return self.repeats or self.in_batches

    step_size: float = 1e-3
    """The learning rate where none is asked for."""

    def examples(self, data: Any, *, name: str = "data", count: int = 1) -> Examples:
        """The data as examples; ``count`` repetitions where the model holds them itself.

        Raises:
            SettingsError: if there are none.
        """
        if data is None:
            raise SettingsError(
                f"{name}: a {type(self).__name__} needs data; pass examples, an array or a tensor"
            )
        return Examples.of(data, name=name)

    def given(self, data: Any, *, count: int = 1) -> tuple[Model, Examples]:
        """The model whose figures on some examples are those of this one on the data, and these examples."""
        return self, self.examples(data, count=count)

    def numbers_per_draw(self, examples: Examples) -> int:
        """The number of values that passes over data are cut by, so that memory stays bounded.

        It is the size of an example, or that of the largest tensor in one draw for one example if
        that is more than 8 times larger, as it is for a likelihood of 256 levels.
        """
        measured = measure_draw(self, examples).largest
        return values_per_pair(math.prod(examples.shape), measured)

    def likelihood_is_mass(self, examples: Examples) -> bool | None:
        """Whether p(x given z) is a probability mass, rather than a density, by its support.

        :meth:`Examples.bits_per_dimension` needs to know. ``None`` if the likelihood does not say.
        """
        p = measure_draw(self, examples).likelihood
        if p is None:
            return None
        return is_mass(p)

    def check_data(self, examples: Examples) -> None:
        """Refuse data that the model cannot take, by name, before any work is done.

        Raises:
            ShapeError, DataError: saying what does not fit, and where.
        """
        few = examples.first(2)
        with evaluating(self), seeded(0, device_of(self)):
            for _, x, given in batches(few, self, seed=0):
                with fitting(few):
                    self.draw(x, **given)
        self.check_support(examples)

    def check_support(self, examples: Examples) -> None:
        """Refuse data that have no density under the model, without a draw.

        Raises:
            DataError: saying where.
        """
