"""A model of data and labels that learns from labelled and unlabelled examples.

Suffixes of shapes: K draws, B examples, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals import Conditional, Given
from lowerbound.conditionals.base import call_network, select_fields
from lowerbound.data.anndata import answer_like
from lowerbound.data.examples import Examples
from lowerbound.describe import describable
from lowerbound.distributions import choose_point
from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.models import checks
from lowerbound.models.draw import Draw
from lowerbound.models.generative import GenerativeModel
from lowerbound.models.label_terms import LABEL, LATENT_LABEL, LabelTerms, read_labels
from lowerbound.models.passes import iterate_batches
from lowerbound.models.sampling import Gradient
from lowerbound.models.support import check_support
from lowerbound.networks import check_module
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import explain_full_memory
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number


@describable
class SemiSupervised(GenerativeModel):
    r"""The model M2 of Kingma et al. 2014: latents z and a label y, which is known for some
    examples.

    .. math:: p(x, y, z) = p(y)\, p(z)\, p(x \mid y, z), \qquad
        q(y, z \mid x) = q(y \mid x)\, q(z \mid x, y)

    The label of an example is its field ``label``. It is -1 where it is not known, or NaN if labels
    are floating-point numbers. Without the field, all examples are unlabelled. An example with a
    label gives a bound on log p(x, y). One without gives a bound on log p(x), in which the label is
    summed out: the terms of the ELBO are means over :math:`q(y \mid x)`, and an importance weight
    is the sum over all labels,

    .. math:: w = \sum_y p(y) \frac{p(z_y)\, p(x \mid y, z_y)}{q(z_y \mid x, y)}, \qquad
        z_y \sim q(z \mid x, y)

    Posterior and likelihood receive the label as the field ``y``, which :class:`lowerbound.Given`
    appends to their input. Each draw evaluates both once for every category. Train the model with
    :class:`lowerbound.SupervisedELBO`, which also trains the classifier on the labels.

    Evaluations that need the distributions for a known label, such as
    :func:`lowerbound.annealed_log_likelihood`, take labelled examples, and evaluate log p(x given
    y).

    Args:
        prior: p(z).
        classifier: a network from x to the logits of q(y|x), ``[B, C]``.
        posterior: q(z|x, y), which needs the field ``y``.
        likelihood: p(x|y, z), which needs the field ``y``.
        categories: C, the number of labels.
        label_probabilities: p(y), C values; by default all are equal.

    Raises:
        SettingsError: if the probabilities are not C positive values whose sum is 1.
        UnsupportedError: at the first draw, for a likelihood with ``scale="optimal"``.
        DataError: before training or evaluation, for labels other than -1 and the categories from
            0 to C - 1, naming the row.

    Source: Kingma, Rezende, Mohamed & Welling 2014, "Semi-supervised learning with deep generative
    models".

    Example:
        >>> import torch, lowerbound as lb
        >>> model = lb.SemiSupervised(
        ...     prior=lb.StandardNormal(2),
        ...     classifier=lb.mlp(6, 16, 3),
        ...     posterior=lb.Given(lb.Gaussian(lb.mlp(6 + 3, 16, 4)), "y", categories=3),
        ...     likelihood=lb.Given(lb.Bernoulli(lb.mlp(2 + 3, 16, 6)), "y", categories=3),
        ...     categories=3,
        ... )
        >>> x = (torch.rand(20, 6) < 0.5).float()
        >>> some = lb.Examples(x, labels=torch.where(torch.arange(20) < 5, 1, -1))
        >>> run = lb.fit(model, lb.SupervisedELBO(), some, epochs=1, progress=False)
        >>> list(run.history[0]["train"])
        ['bound', 'rate', 'distortion', 'classification']
        >>> model.predict(x).shape, model.sample(4, label=2).shape
        (torch.Size([20]), torch.Size([4, 6]))
    """

    label_prior: Tensor
    network_dtype: torch.dtype | None = None  # see networks_in

    def __init__(
        self,
        prior: nn.Module,
        classifier: nn.Module,
        posterior: nn.Module,
        likelihood: nn.Module,
        categories: int,
        *,
        label_probabilities: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior
        check_module("SemiSupervised: classifier", classifier, "lb.mlp(...)")
        self.classifier = classifier
        self.posterior = posterior
        self.likelihood = likelihood
        self.categories = check_whole_number("SemiSupervised: categories", categories)
        self.label_probabilities = label_probabilities
        probabilities = torch.full((categories,), 1 / categories)
        if label_probabilities is not None:
            probabilities = torch.tensor([float(value) for value in label_probabilities])
        fits = probabilities.shape == (categories,) and bool((probabilities > 0).all())
        if not fits or not math.isclose(float(probabilities.sum()), 1, rel_tol=1e-4):
            raise SettingsError(
                f"SemiSupervised: label_probabilities={label_probabilities} must be "
                f"{categories} positive values whose sum is 1"
            )
        self.register_buffer("label_prior", probabilities, persistent=False)

    def list_parts(self) -> Mapping[str, nn.Module]:
        """Prior, posterior and likelihood by these names."""
        return {"prior": self.prior, "posterior": self.posterior, "likelihood": self.likelihood}

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the fields that a part of the model needs, apart from the latent label."""
        return tuple(name for name in super().needs if name != LATENT_LABEL)

    @property
    def accepts(self) -> tuple[str, ...]:  # type: ignore[override]
        """The label, and names of further fields that a part uses if the examples have them."""
        return (LABEL, *super().accepts)

    @property
    def scored_fields(self) -> Mapping[str, int]:
        """The label, whose probability p(y) is a part of the bound where the label is known."""
        return {LABEL: self.categories}

    # Distributions for a known label

    def posterior_given(self, x: Tensor, given: Mapping[str, Tensor]) -> Distribution:
        """q(z|x, y) for the labels that are given."""
        return self.call_posterior(x, self._with_label(given))

    def prior_given(self, given: Mapping[str, Tensor]) -> Distribution:
        """p(z) for the fields that it needs."""
        prior: Distribution = checks.call_prior(self.prior, select_fields(self.prior, given))
        return prior

    def likelihood_given(self, given: Mapping[str, Tensor]) -> Callable[[Tensor], Distribution]:
        """p(x|y, z) as a function of z, for the labels that are given."""
        fields = select_fields(self.likelihood, self._with_label(given))
        return partial(self.likelihood, **fields)

    def _with_label(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the latent label, which is known here.

        Raises:
            DataError: if it is not.
        """
        label = given.get(LABEL)
        if label is None or bool((read_labels(label) < 0).any()):
            raise DataError(
                f"SemiSupervised: the label of each example is needed here; pass label=..., a "
                f"category from 0 to {self.categories - 1}"
            )
        return dict(given) | {LATENT_LABEL: read_labels(label)}

    def call_posterior(self, x: Tensor, given: Mapping[str, Tensor]) -> Distribution:
        """q(z|x, y), where ``given`` contains the latent label."""
        q: Distribution = self.posterior(x, **select_fields(self.posterior, given))
        return q

    # Draws

    def draw(
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise", **given: Any
    ) -> Draw:
        """``samples`` draws of z for every label, and the terms of the bound at them.

        Args:
            x: data, ``[B, *event]``.
            samples: K.
            gradient: ``"pathwise"``, because the label is summed out.
            given: the fields that the model needs, and the field ``label``, ``[B, ...]`` each.
        """
        terms = LabelTerms(self, x, samples, gradient, given)
        return Draw(
            z=torch.cat([z.flatten(2) for z in terms.z], -1),
            likelihood_term=lambda: terms.average(terms.log_likelihood),
            prior_term=lambda: terms.average(terms.log_prior),
            posterior_term=lambda: terms.average(terms.log_q) + terms.log_label_q,
            weight_term=terms.sum_labels_out,
            p=terms.p[0],  # that of any label says what kind of distribution it is
            extra={"log_q_label": terms.log_q_label},
        )

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x), ``[B, C]``.

        Raises:
            ShapeError: if the classifier does not give one logit for each category.
        """
        logits = call_network(self.classifier, self.network_dtype, x)
        if logits.shape != (len(x), self.categories):
            raise ShapeError(
                f"SemiSupervised: the classifier's output has the shape {tuple(logits.shape)}; "
                f"expected {(len(x), self.categories)}, a logit for each category"
            )
        return logits.log_softmax(-1)

    def start_from(self, x: Tensor, **given: Any) -> None:
        """Start the likelihood from some data, see :meth:`lowerbound.Conditional.start_from`."""
        if isinstance(self.likelihood, Conditional):
            any_label = torch.zeros(len(x), dtype=torch.long, device=x.device)
            labelled = given | {LATENT_LABEL: any_label}
            self.likelihood.start_from(x, **select_fields(self.likelihood, labelled))

    def try_draw(
        self,
        examples: Examples,
        x: Tensor,
        samples: int,
        gradient: Gradient,
        given: Mapping[str, Any],
    ) -> Draw:
        """Make a first draw for some examples, after checking their labels."""
        self._check_labels_of(examples)
        return super().try_draw(examples, x, samples, gradient, given)

    def check_support(self, examples: Examples) -> None:
        """Check the labels, and that the data lie in the likelihood's support.

        Raises:
            DataError: saying where they do not.
        """
        self._check_labels_of(examples)
        likelihood = self.likelihood
        while isinstance(likelihood, Given) and likelihood.field == LATENT_LABEL:
            likelihood = likelihood.part  # the support is the same for every label
        check_support(self, likelihood, examples)

    def as_fields(self, given: Mapping[str, Any], count: int) -> dict[str, Tensor]:
        """Values of fields by name as tensors, as for :class:`lowerbound.LatentModel`.

        Raises:
            DataError: also for a label that is not a category.
        """
        fields = super().as_fields(given, count)
        if LABEL in fields:
            self._check_labels(fields[LABEL], torch.arange(count), type(self).__name__)
        return fields

    def _check_labels_of(self, examples: Examples) -> None:
        rows = everything = torch.arange(len(examples))
        label = examples.given(everything, (), (LABEL,)).get(LABEL)
        if examples.rows is not None:
            rows = examples.rows
        if label is not None:
            self._check_labels(label, rows, examples.name)

    def _check_labels(self, label: Tensor, rows: Tensor, name: str) -> None:
        labels = read_labels(label)
        bad = (labels < -1) | (labels >= self.categories)
        if label.is_floating_point():
            bad |= ~label.isnan() & (label != label.round())
        if not bool(bad.any()):
            return
        place = int(bad.nonzero()[0])
        raise DataError(
            f"{name}: the field 'label' is {label[place].item():g} in row {int(rows[place])}; the "
            f"labels are the whole numbers from 0 to {self.categories - 1}, and -1 where they are "
            "not known; correct the labels, or pass categories=..."
        )

    # Predictions, embeddings, samples and reconstructions

    @torch.no_grad()
    def predict_probabilities(self, data: Any) -> Tensor:
        """q(y|x) for each example, ``[N, C]``. Labels of the examples are not used.

        Args:
            data: examples, or raw data as for :meth:`~lowerbound.Model.examples`: ``[N, *event]``.
        """
        with evaluating(self):
            batches = iterate_batches(data, self, seed=0, part=self.classifier)
            return torch.cat([self.classify(x).exp() for _, x, _ in batches])

    def predict(self, data: Any) -> Tensor:
        """The most probable label of each example, ``[N]``. Labels of the examples are not used."""
        return self.predict_probabilities(data).argmax(1)

    @torch.no_grad()
    def encode(self, data: Any) -> Tensor:
        """The natural point of q(z|x, y), ``[N, *units]``.

        y is the label of the example, or the most probable one where it is not known.
        """
        points = []
        examples = self.examples(data)
        self._check_labels_of(examples)
        with evaluating(self):
            for _, x, given in iterate_batches(examples, self, seed=0):
                q = self.call_posterior(x, self._complete(x, given))
                points.append(choose_point(q, get_device(self)))
        return cast(Tensor, answer_like(data, torch.cat(points)))

    def _complete(self, x: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the latent label: the known one, or the most probable one."""
        best = self.classify(x).argmax(1)
        if LABEL in given:
            known = read_labels(given[LABEL])
            best = torch.where(known < 0, best, known)
        return dict(given) | {LATENT_LABEL: best}

    def sample(
        self, count: int, *, mean: bool = False, seed: int | None = None, **given: Any
    ) -> Tensor:
        """Draws of data, as those of :class:`lowerbound.LatentModel`.

        Without ``label=...``, and where the label is -1, labels are drawn from p(y).
        """
        count = check_whole_number("sample: count", count)
        of_labels = seed
        if seed is not None:
            of_labels = derived_seed(check_seed("sample", seed), "labels")
        with seeded(of_labels, get_device(self)), explain_full_memory("sample", count):
            known = self.as_fields(given, count).get(LABEL)
            labels = self.label_prior.multinomial(count, replacement=True)
        if known is not None:
            labels = torch.where(read_labels(known) < 0, labels, read_labels(known))
        return super().sample(count, mean=mean, seed=seed, **given | {LABEL: labels})

    @torch.no_grad()
    def decode(self, z: Any, **given: Any) -> Tensor:
        """The mean of p(x|y, z), ``[N, *event]``, for latents ``[N, *units]``.

        ``given`` holds ``label`` and the fields that the likelihood needs by name: one value for
        all latents, or one for each. Without ``label`` it is the mean over p(y).
        """
        if LABEL not in given:
            probabilities = enumerate(self.label_prior.tolist())
            means = [share * self.decode(z, label=y, **given) for y, share in probabilities]
            return torch.stack(means).sum(0)
        z = checks.check_latents(z, self.prior).to(get_device(self), get_dtype(self))
        with evaluating(self):
            return self._decode_latents(z, self.as_fields(given, len(z)), mean=True)

    @torch.no_grad()
    def reconstruct(self, data: Any, **given: Any) -> Tensor:
        """The mean of p(x|y, z) at the natural point of q(z|x, y), ``[N, *event]``.

        ``label=...`` shows each example as it would be with another label. By default it has its
        own, or the most probable one.
        """
        examples = self.examples(data)
        names = [name for name in self.needs if name not in given]
        index = torch.arange(len(examples))
        fields: dict[str, Any] = examples.given(index, names, (LABEL,))
        if LABEL not in given:
            fields[LABEL] = self._find_labels(examples, fields.get(LABEL))
        means = self.decode(self.encode(examples), **(fields | given))
        return cast(Tensor, answer_like(data, means))

    def _find_labels(self, examples: Examples, known: Tensor | None) -> Tensor:
        best = self.predict(examples).cpu()
        if known is None:
            return best
        return torch.where(read_labels(known) < 0, best, read_labels(known))
