"""The base of all models."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.data.examples import Examples
from lowerbound.data.fields import refuse_ignored_mask
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.raw import read_raw
from lowerbound.data.rows import split_row_numbers
from lowerbound.distributions import is_mass
from lowerbound.errors import DataError, SettingsError
from lowerbound.models.draw import Draw
from lowerbound.models.encoding import encode
from lowerbound.models.measuring import draw_likelihood, find_largest_growth
from lowerbound.models.passes import explaining_shapes, iterate_batches
from lowerbound.models.plan import TrainingPlan
from lowerbound.models.sampling import Gradient
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.memory import count_values_per_pair
from lowerbound.runtime.modes import evaluating, seeded


class Model(nn.Module, ABC):
    """Anything that can draw its latents for some data.

    To write your own: subclass and implement :meth:`draw`. Every objective, :func:`lowerbound.fit`
    and :func:`lowerbound.evaluate` then work with it. A model that depends on fields of the
    examples, such as covariates, names them in :attr:`needs`, and :meth:`draw` receives them as
    keywords. A model with several groups of latents, such as several stochastic layers, returns
    :meth:`Draw.of <lowerbound.Draw.of>` them.
    """

    needs: tuple[str, ...] = ()
    """Names of the fields that each example must have."""

    accepts: tuple[str, ...] = ()
    """Names of further fields that the model receives if the examples have them."""

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
        """A :class:`Draw` of the latents of one batch for each number of samples in ``sizes``.

        Override it where something that does not depend on the draws can be computed once.
        """
        for samples in sizes:
            yield self.draw(x, samples, gradient, **given)

    preprocessing: Preprocessing | None = None
    """How raw data become examples like those that the model was trained on.

    :func:`lowerbound.fit` takes it from the result of :func:`lowerbound.load_data`,
    :func:`lowerbound.save` writes it, and :func:`lowerbound.load` restores it. ``None`` if the
    model was trained on other data: raw arrays are then taken as :meth:`Examples.of
    <lowerbound.Examples.of>` takes them.
    """

    log_likelihood_name: str = "log p(x|z)"
    """What error messages call the log likelihood."""

    def examples(self, data: Any, *, name: str = "data") -> Examples:
        """The data as examples like those that the model was trained on.

        A model with a :attr:`preprocessing` takes a folder of pictures or another path, a list of
        pictures, or an array, and brings pictures to their size and colour. Examples are returned
        as they are, but the integers of categories become those that they had in training.

        Raises:
            SettingsError: if data are missing.
            DataError, ShapeError: for data that cannot be made into such examples, saying why.
        """
        if data is None:
            raise SettingsError(
                f"{name}: a {type(self).__name__} needs data; pass examples, an array or a tensor"
            )
        if self.preprocessing is not None:
            asked = (*self.needs, *self.accepts)
            return read_raw(data, self.preprocessing, name=name, fields=asked)
        if isinstance(data, str | os.PathLike):
            raise DataError(
                f"{name}: this model does not know how to read {os.fspath(data)!r}, because it was "
                "not trained on data from lb.load_data; pass lb.load_data(...).train"
            )
        return Examples.of(data, name=name)

    def training_plan(self, data: Any) -> TrainingPlan:
        """How the model is trained on some data. Override it where the training is special.

        Raises:
            SettingsError: if the model cannot be trained on these data.
        """
        return TrainingPlan(self.examples(data, name="training data"))

    def for_evaluation(self, data: Any, *, repetitions: int = 1) -> tuple[Model, Examples]:
        """A model and examples whose bound is the bound of this model on all of the data.

        They are this model and the data as examples, unless the model has one set of latents for
        all of the data. Such a model stores the data, and is evaluated ``repetitions`` times.
        """
        return self, self.examples(data)

    def numbers_per_draw(self, examples: Examples) -> int:
        """The number of values for each example, by which evaluations choose their batch size.

        It is the size of an example, or that of the largest tensor in one draw for one example if
        that is more than 8 times larger, as it is for a likelihood of 256 levels.
        """
        # Measured once for each kind of example, because every validation needs it.
        key = (examples.shape, *map(id, self.modules()))
        known: dict[Any, int] = self.__dict__.setdefault("_largest_of_draw", {})
        if key not in known:
            known[key] = find_largest_growth(self, examples)
        return count_values_per_pair(math.prod(examples.shape), known[key])

    @property
    def scored_fields(self) -> Mapping[str, int]:
        """The fields whose probability is a part of the bound, with their numbers of categories.

        Where such a field is -1 or NaN, it is not known, and the bound has no such part.
        """
        return {}

    @property
    def hides_entries(self) -> bool:
        """Whether some entries of training batches are hidden, and left out of their bound."""
        return False

    def likelihood_is_mass(self, examples: Examples) -> bool | None:
        """Whether p(x|z) is a probability mass, rather than a density, by its support.

        :meth:`Examples.bits_per_dimension` needs to know. ``None`` if the likelihood does not say.
        """
        p = draw_likelihood(self, examples)
        if p is None:
            return None
        return is_mass(p)

    def count_scored_entries(self, examples: Examples) -> float | None:
        """The average number of entries of an example that p(x|z) scores; ``None`` for all.

        A likelihood of sequences of different lengths does not score what follows their ends. Its
        distribution has a method ``count_scored``.
        """
        count: Callable[[Tensor], Tensor] | None
        count = getattr(draw_likelihood(self, examples), "count_scored", None)
        if count is None:
            return None
        total = sum(
            int(count(examples.batch(rows)).sum()) for rows in split_row_numbers(examples.values)
        )
        return total / len(examples)

    @contextmanager
    def trial(
        self,
        examples: Examples,
        samples: int = 1,
        gradient: Gradient = "pathwise",
        *,
        with_gradients: bool = False,
    ) -> Iterator[Draw]:
        """Within the block, a draw for the first two examples, which leaves no trace afterwards.

        Args:
            examples: The data.
            samples: K.
            gradient: How the posterior's parameters get their gradient.
            with_gradients: Whether to record gradients, as training does.

        Raises:
            ShapeError, DataError, SettingsError: if the model cannot make the draw, saying why.
        """
        # The message counts the missing entries of all examples, and not those of the first two.
        refuse_ignored_mask(examples.all_fields, self.needs, self.accepts, examples.name)
        few = examples.first(2)
        with (
            evaluating(self),
            seeded(0, get_device(self)),
            torch.set_grad_enabled(with_gradients),
        ):
            for _, x, given in iterate_batches(few, self, seed=0, batch_size=2):
                yield self.try_draw(few, x, samples, gradient, given)

    def try_draw(
        self,
        examples: Examples,
        x: Tensor,
        samples: int,
        gradient: Gradient,
        given: Mapping[str, Any],
    ) -> Draw:
        """Make a first draw for some examples ``x``; errors name the data and their shape."""
        with explaining_shapes(examples):
            return self.draw(x, samples, gradient, **given)

    def check_data(self, examples: Examples) -> None:
        """Refuse data that the model cannot take, by name, before any work is done.

        Raises:
            ShapeError, DataError: saying what does not fit, and where.
        """
        with self.trial(examples):
            self.check_support(examples)

    def check_support(self, examples: Examples) -> None:
        """Check that the data have a density under the model, without a draw.

        Raises:
            DataError: saying where.
        """

    def start_from(self, x: Tensor, **given: Any) -> None:
        """Set parameters so that training starts from some data.

        By default nothing changes. Override it in a model with a likelihood, and call the
        likelihood's :meth:`~lowerbound.Conditional.start_from`.

        Args:
            x: data, ``[N, *event]``.
            given: the fields that the model needs or accepts, ``[N, ...]`` each.
        """

    def standardize(self, x: Tensor, **given: Any) -> None:
        """Let the model see each entry of the data with mean 0 and standard deviation 1.

        Its bound, draws and means stay in the units of the data.

        Args:
            x: data, ``[N, *event]``.
            given: the fields that the model needs or accepts, ``[N, ...]`` each.

        Raises:
            SettingsError: if the model cannot do so, as by default.
        """
        raise SettingsError(
            f"a {type(self).__name__} cannot standardise its data; leave standardize out, or "
            "use a lb.LatentModel"
        )

    def explain_non_finite(self, draw: Draw, too_long: str) -> tuple[str, str] | None:
        """Why a draw led to a non-finite bound or gradient, and the remedy.

        Args:
            draw: The draw.
            too_long: The cause to give if the training steps are too long.

        Returns:
            The cause and the remedy, or ``None`` if the model cannot add to what training knows.
        """
        return None

    def unnormalized_parts(self) -> tuple[str, ...]:
        """The parts whose ``log_prob`` is not a log density or log mass, for messages.

        With such a part the bound is only a score, and not a bound on log p(x). By default all
        parts are normalised.
        """
        return ()

    @torch.no_grad()
    def encode(self, data: Any) -> Tensor | dict[str, Tensor]:
        """A point for the latents of each example, the same at every call.

        It is the natural point of q, such as its mean: see
        :func:`~lowerbound.distributions.natural_point`. For latents whose q depends on others that
        are drawn before, it is the average of the natural points for 256 draws of those.

        Args:
            data: examples, or raw data as for :meth:`examples`: ``[N, *event]``.

        Returns:
            ``[N, *units]``; for several groups of latents, a mapping from their names to such
            tensors. For AnnData they are arrays, as for its ``obsm``, in the order of its rows.

        Raises:
            UnsupportedError: if the model's draws do not say what q is.
        """
        return encode(self, data)
