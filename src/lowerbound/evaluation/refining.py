"""Semi-amortised inference: the posterior of each example, refined from the encoder's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from torch.distributions import Distribution

from lowerbound.conditionals import Parametric
from lowerbound.conditionals.given import unwrap
from lowerbound.data.examples import Examples
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.evaluation.checks import check_batch_size, check_model, check_normalized
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.search import Search, describe_convergence
from lowerbound.models import LatentModel, Model
from lowerbound.models.passes import ProgressCallback, iterate_batches, read_examples
from lowerbound.runtime.modes import evaluating
from lowerbound.settings import check_seed, check_whole_number


@dataclass(frozen=True, eq=False)
class RefinedPosterior:
    """A posterior q for each example, and its bound on log p(x); see :func:`lowerbound.refine`.

    Args:
        model: the model, whose weights are as they were.
        examples: the data.
        parameters: the parameters of each q, in the place of the encoder's outputs,
            ``[N, *outputs]``.
        embeddings: the natural point of each q, ``[N, *units]``, as
            :meth:`LatentModel.encode <lowerbound.LatentModel.encode>` gives it for the encoder's q.
        bound: the bound with the refined q; it has a value for each example.
        amortised_bound: the bound with the encoder's q, from the same noise.
        last_gain: the mean gain of the last round of the search, in nats.
    """

    model: LatentModel
    examples: Examples
    parameters: Tensor
    embeddings: Tensor
    bound: Estimate
    amortised_bound: Estimate
    last_gain: float = 0.0

    @property
    def q(self) -> Distribution:
        """The refined posteriors as one distribution, batch shape ``[N]``."""
        posterior = cast(Parametric, self.model.posterior)
        with evaluating(self.model):
            return posterior.from_parameters(self.parameters)

    @property
    def gain(self) -> Estimate:
        """Refined bound minus amortised bound, for each example."""
        return Estimate(self.bound.per_example - self.amortised_bound.per_example)

    @property
    def warning(self) -> str | None:
        """Whether the search did not converge, in words; ``None`` if it did."""
        stopped_short = describe_convergence(self.last_gain)
        if stopped_short is None:
            return None
        return f"{stopped_short}. So the posteriors can still be refined; take more steps"

    def reconstruct(self, **given: Any) -> Tensor:
        """The mean of p(x|z) at the embeddings, ``[N, *event]``.

        Args:
            given: fields in place of the examples' own, as for
                :meth:`LatentModel.reconstruct <lowerbound.LatentModel.reconstruct>`.
        """
        return self.model.decode_examples(self.embeddings, self.examples, **given)

    def __repr__(self) -> str:
        return (
            f"RefinedPosterior(bound={self.bound.mean:.6g}, gain={self.gain.mean:.6g}, "
            f"examples={len(self.embeddings)})"
        )


def refine(
    model: Model,
    data: Any,
    *,
    steps: int = 200,
    learning_rate: float = 0.03,
    samples: int = 500,
    seed: int = 0,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> RefinedPosterior:
    r"""Refine the encoder's posterior for each example: semi-amortised inference.

    .. math:: \lambda^*(x) = \arg\max_\lambda \mathcal L(x; \lambda), \qquad
        \mathcal L(x; \lambda) = \mathbb E_{q_\lambda(z)} [\log p(x, z) - \log q_\lambda(z)]

    The encoder gives the first parameters :math:`\lambda` of q, and Adam maximises the bound over
    those of each example (Kim et al. 2018, arXiv:1802.02550; Cremer, Li & Duvenaud 2018). The
    search is that of :func:`lowerbound.inference_gaps`, which describes it. The model's own weights
    do not change. Use it for embeddings and reconstructions that do not suffer from the encoder's
    errors, such as on data unlike the training data.

    Both bounds are estimated on the same K draws, which the search has not used. An example keeps
    the encoder's q, and its gain is 0, unless the gain exceeds three of its standard errors. So the
    bound of no example falls, except that among examples without any gain, one in 740 changes its q
    by chance. The choice raises the estimates, on average, by at most 0.4 standard errors of a
    gain.

    The noise of an example depends only on ``seed`` and on its row, so the result does not depend
    on the batches.

    Args:
        model: a :class:`~lowerbound.LatentModel` whose posterior has ``from_parameters``, such as
            ``lb.Gaussian``.
        data: examples, an array or a tensor, ``[N, *event]``.
        steps: the number of Adam's steps in each round; 0 keeps the encoder's q.
        learning_rate: the learning rate at the start of a round.
        samples: K, the draws for each bound, at least 2.
        seed: of all noise.
        batch_size: the number of examples in a batch; by default one that keeps memory small.
        progress: is called after each batch of a round with the number of examples done, and of all
            examples.

    Returns:
        A :class:`RefinedPosterior`, with ``embeddings``, ``bound``, ``q`` and ``reconstruct()``.

    Raises:
        UnsupportedError: for a model or a posterior that does not allow the search, by name, and if
            a part of the model is not normalised.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits").test.spread(5)
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (2, 8, 8))),
        ... )
        >>> refined = refine(vae, digits, steps=20, samples=20)
        >>> refined.embeddings.shape, refined.reconstruct().shape, refined.bound.per_example.shape
        (torch.Size([5, 2]), torch.Size([5, 1, 8, 8]), torch.Size([5]))
        >>> refined.gain.mean > 0
        True
    """
    examples = read_examples(model, data)
    if check_whole_number("refine: samples", samples) < 2:
        raise SettingsError("refine: samples=1 must be at least 2, to tell a gain from chance")
    search = prepare_search(
        "refine",
        model,
        examples,
        samples=samples,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    found = search.refine(examples, batch_size)
    return RefinedPosterior(
        search.model,
        examples,
        found.parameters,
        found.points,
        found.best_bound,
        found.amortised_bound,
        found.last_gain,
    )


def prepare_search(
    name: str,
    model: Model,
    examples: Examples,
    *,
    samples: int,
    steps: int,
    learning_rate: float,
    seed: int,
    batch_size: int | None,
    progress: ProgressCallback | None,
) -> Search:
    """Check the arguments of a function that searches for the best q, and make its search.

    Args:
        name: the name of the function.
        model: the model that it was given.
        examples: the data that it was given.
        samples: as for :class:`Search`, like the other settings.

    Raises:
        UnsupportedError: for a model or a posterior that does not allow the search, by name.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.
    """
    check_seed(name, seed)
    check_batch_size(name, batch_size)
    samples = check_whole_number(f"{name}: samples", samples)
    if steps < 0:
        raise SettingsError(f"{name}: steps={steps} must be at least 0")
    if not 0 < learning_rate < math.inf:
        raise SettingsError(f"{name}: learning_rate={learning_rate} must be positive")
    model = check_refinable(name, model, examples)
    return Search(model, samples, steps, learning_rate, seed, progress)


def check_refinable(name: str, model: Model, examples: Examples) -> LatentModel:
    """Return the model if a better q can be searched for each example.

    Args:
        name: the name of the function that searches.
        model: the model that it was given.
        examples: the data that it was given.

    Raises:
        UnsupportedError: saying why it cannot.
    """
    model = check_model(name, model, LatentModel, "it searches for the best q of each example")
    check_normalized(name, model)
    posterior = unwrap(model.posterior)
    missing = [
        needed
        for needed in ("network", "parameters_from", "from_parameters")
        if not hasattr(posterior, needed)
    ]
    if missing:
        raise UnsupportedError(
            f"{name}: the posterior is a {type(posterior).__name__}, which has no {missing[0]}, so "
            "its parameters for an example cannot be refined; use lowerbound.Gaussian, or a "
            "subclass of lowerbound.conditionals.Parametric"
        )
    model.check_data(examples)
    with evaluating(model):
        _, x, given = next(iterate_batches(examples, model, seed=0, batch_size=1))
        q = model.conditioned(x, given).q
    if not q.has_rsample:
        raise UnsupportedError(
            f"{name}: the posterior returned {type(q).__name__}, which cannot be reparameterised, "
            "so gradients cannot refine it; use a posterior with rsample, such as "
            "lowerbound.Gaussian"
        )
    return model
