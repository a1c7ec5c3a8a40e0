"""The gaps between bound and log likelihood: due to the family of q, and due to the encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lowerbound.data.examples import Examples
from lowerbound.errors import ShapeError
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate
from lowerbound.evaluation.refining import prepare_search
from lowerbound.evaluation.search import describe_convergence
from lowerbound.models import Model
from lowerbound.models.passes import ProgressCallback, read_examples

# Below this many nats a gap is too small to work on.
_SMALL_NATS = 0.5


@dataclass(frozen=True, eq=False)
class Gaps:
    """The log likelihood and two bounds on it, over the same examples. ``str()`` gives a table.

    Args:
        log_likelihood: by importance sampling; its ``warning`` says whether you can trust it.
        best_bound: the bound with the best q for each example.
        amortised_bound: the bound with the encoder's q.
        train_log_likelihood: the log likelihood of as many training examples, if they were given.
        last_gain: the mean gain of the last round of the search, in nats.
    """

    log_likelihood: LikelihoodEstimate
    best_bound: Estimate
    amortised_bound: Estimate
    train_log_likelihood: LikelihoodEstimate | None = None
    last_gain: float = 0.0

    @property
    def warning(self) -> str | None:
        """Whether the search for the best q did not converge, in words; ``None`` if it did."""
        stopped_short = describe_convergence(self.last_gain)
        if stopped_short is None:
            return None
        return (
            f"{stopped_short}. So the approximation gap is too large and the amortisation gap too "
            "small; take more steps"
        )

    @property
    def approximation(self) -> Estimate:
        """Log likelihood minus best bound: KL(best q || posterior)."""
        return Estimate(self.log_likelihood.per_example - self.best_bound.per_example)

    @property
    def amortisation(self) -> Estimate:
        """Best bound minus amortised bound: what the encoder loses to the best q."""
        return Estimate(self.best_bound.per_example - self.amortised_bound.per_example)

    @property
    def inference(self) -> Estimate:
        """Log likelihood minus amortised bound: the sum of both gaps."""
        return Estimate(self.log_likelihood.per_example - self.amortised_bound.per_example)

    @property
    def generalisation(self) -> tuple[float, float] | None:
        """Log likelihood of training examples minus that of these examples, with its error.

        The error is a standard error; ``None`` without training examples.
        """
        train, others = self.train_log_likelihood, self.log_likelihood
        if train is None:
            return None
        error = math.hypot(train.standard_error, others.standard_error)
        return train.mean - others.mean, error

    @property
    def advice(self) -> str:
        """What to improve, in one sentence."""
        approximation, amortisation = self.approximation.mean, self.amortisation.mean
        total = approximation + amortisation
        gap, error = self.generalisation or (0.0, 0.0)
        if self.log_likelihood.has_one_code:
            return (
                "the gaps are not known: q has all its probability on one code, and the log "
                "likelihood cannot be estimated with it; the best code of each example raises the "
                f"bound by {amortisation:.2f} nats"
            )
        if gap > max(_SMALL_NATS, 2 * error, approximation, amortisation):
            return (
                f"generalisation dominates ({gap:.2f} nats between training and other examples): "
                "regularise, stop earlier, or get more data"
            )
        if max(approximation, amortisation) < _SMALL_NATS:
            return (
                f"inference is fine (the bound is {total:.2f} nats below the log likelihood): only "
                "a better decoder or prior can raise the likelihood"
            )
        if self.warning is not None and approximation > amortisation:
            return (
                f"approximation and amortisation cannot be separated ({total:.2f} nats in all): "
                "the search for the best bound had not converged; take more steps before you "
                "change the posterior"
            )
        if amortisation >= approximation:
            return (
                f"amortisation dominates ({amortisation:.2f} of {total:.2f} nats): enlarge the "
                "encoder, or train it for longer"
            )
        return (
            f"approximation dominates ({approximation:.2f} of {total:.2f} nats): use a richer "
            "posterior, such as a flow"
        )

    def rows(self) -> Iterator[tuple[str, float, float]]:
        """The rows of the table: name, mean and standard error."""
        parts: dict[str, Estimate] = {
            "log likelihood": self.log_likelihood,
            "best bound": self.best_bound,
            "amortised bound": self.amortised_bound,
            "approximation gap": self.approximation,
            "amortisation gap": self.amortisation,
            "inference gap": self.inference,
        }
        if self.train_log_likelihood is not None:
            parts["train log likelihood"] = self.train_log_likelihood
        yield from ((name, part.mean, part.standard_error) for name, part in parts.items())
        if self.generalisation is not None:
            yield "generalisation gap", *self.generalisation

    def __str__(self) -> str:
        count = len(self.log_likelihood.per_example)
        lines = [f"{'nats per example':<22}{'mean':>10}  standard error ({count:,} examples)"]
        lines += [f"{name:<22}{mean:>10.3f}  ±{error:.3f}" for name, mean, error in self.rows()]
        return "\n".join(lines)


def inference_gaps(
    model: Model,
    data: Any,
    *,
    train: Any = None,
    samples: int = 500,
    steps: int = 200,
    learning_rate: float = 0.03,
    seed: int = 0,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> Gaps:
    r"""The gaps between a model's bound and its log likelihood.

    .. math:: \log p(x) - \mathcal L_\phi(x) =
        \underbrace{\log p(x) - \mathcal L^*(x)}_{\text{approximation}} +
        \underbrace{\mathcal L^*(x) - \mathcal L_\phi(x)}_{\text{amortisation}}

    (Cremer, Li & Duvenaud 2018, arXiv:1801.03558.) The best bound :math:`\mathcal L^*` uses a
    separate q for each example. The search starts at the encoder's output, and Adam maximises the
    bound over these parameters of q, with a cosine decay of the learning rate. It uses the
    sticking-the-landing gradient (Roeder et al. 2017), whose noise vanishes as q approaches the
    posterior. After a round, the better of its start and its end is kept, by their bounds on the
    same new noise. Further rounds follow until a round gains less than 0.05 nats on average over
    the examples. If the tenth round still gains more, :attr:`Gaps.warning` says that the search had
    not converged. Finally the bounds are estimated on noise that the search has not used.

    log p(x) is estimated by importance sampling. The proposal is the mixture of the encoder's q and
    the best q (Owen & Zhou 2000), so the estimate is a lower bound in expectation, which the larger
    of two estimates would not be. It is close if either q covers the posterior, which a q with all
    its probability on one code does not. The approximation gap is too large if the search does not
    find the best q, and too small if importance sampling does not reach log p(x).

    The noise of an example depends only on ``seed`` and on its row, so the result does not depend
    on the batches. The model's own weights get no gradients.

    Args:
        model: a :class:`~lowerbound.LatentModel` whose posterior has ``from_parameters``, such as
            ``lb.Gaussian``.
        data: examples, an array or a tensor, ``[N, *event]``. A round costs ``30 * steps`` passes
            for each example, and there are usually one or two rounds. So take a few hundred
            examples, for instance with ``Examples.spread``.
        train: training data for the generalisation gap; as many examples of it are used, evenly
            spaced.
        samples: K, the draws for each bound. For log p(x) there are twice as many: K from each q,
            all independent.
        steps: the number of Adam's steps in each round; 0 keeps the encoder's q.
        learning_rate: the learning rate at the start of a round.
        seed: of all noise.
        batch_size: the number of examples in a batch; by default one that keeps memory small.
        progress: is called after each batch of a round with the number of examples done, and of all
            examples.

    Returns:
        :class:`Gaps`: ``print`` it for a table; its ``advice`` says what to improve.

    Raises:
        UnsupportedError: for a model or a posterior that does not allow the search, by name, and if
            a part of the model is not normalised.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (2, 8, 8))),
        ... )
        >>> gaps = inference_gaps(vae, digits.test.spread(5), samples=20, steps=20)
        >>> abs(gaps.approximation.mean + gaps.amortisation.mean - gaps.inference.mean) < 1e-9
        True
    """
    examples = read_examples(model, data)
    others = None
    if train is not None:
        others = _spread_like(read_examples(model, train, name="training data"), examples)
    search = prepare_search(
        "inference_gaps",
        model,
        examples,
        samples=samples,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    found = search.run(examples, batch_size)
    train_log_likelihood = None
    if others is not None:
        train_log_likelihood = search.run(others, batch_size).log_likelihood
    return Gaps(
        found.log_likelihood,
        found.best_bound,
        found.amortised_bound,
        train_log_likelihood,
        found.last_gain,
    )


def _spread_like(train: Examples, examples: Examples) -> Examples:
    """Take as many training examples as there are others, evenly spaced."""
    chosen = train.spread(len(examples))
    if chosen.shape != examples.shape:
        raise ShapeError(
            f"inference_gaps: the training examples have the shape {chosen.shape}, but the data "
            f"have {examples.shape}; give examples of the same shape"
        )
    return chosen
