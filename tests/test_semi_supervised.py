"""Semi-supervised models: against sums over all labels in closed form."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.errors import DataError, SettingsError, ShapeError, UnsupportedError
from lowerbound.evaluation import score_independent_entries
from lowerbound.evaluation.baseline import score_entries_alone

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame
from test_compiling import assert_agreement, make_step

DOUBLE = torch.float64
SIZE, CATEGORIES, LATENT = 4, 3, 2


def make(seed=0, hidden=(), likelihood=None, **settings):
    """By default all is linear and Gaussian, given the label."""
    torch.manual_seed(seed)
    inside = likelihood or lb.Gaussian(lb.mlp(LATENT + CATEGORIES, *hidden, SIZE), scale=0.6)
    posterior = lb.Gaussian(lb.mlp(SIZE + CATEGORIES, *hidden, 2 * LATENT))
    return lb.SemiSupervised(
        lb.StandardNormal(LATENT),
        lb.mlp(SIZE, *hidden, CATEGORIES),
        lb.Given(posterior, "y", categories=CATEGORIES),
        lb.Given(inside, "y", categories=CATEGORIES),
        CATEGORIES,
        **settings,
    ).double()


@torch.no_grad()
def joint(model, x):
    """log p(x, y) for each label in closed form, ``[B, C]``."""
    layer = model.likelihood.network.layers[0]
    weight, shift = layer.weight.split((LATENT, CATEGORIES), 1)
    covariance = weight @ weight.mT + 0.36 * torch.eye(SIZE, dtype=DOUBLE)
    terms = [
        MultivariateNormal(layer.bias + shift[:, y], covariance).log_prob(x)
        for y in range(CATEGORIES)
    ]
    return torch.stack(terms, -1) + model.label_prior.double().log()


def data(count=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, SIZE, generator=generator, dtype=DOUBLE)
    labels = torch.arange(count) % (CATEGORIES + 1) - 1  # -1, 0, 1, 2, -1, ...
    return x, labels


# Oracles


def test_importance_weights_sum_the_label_out():
    """With 20,000 draws of a broad posterior the standard error is about 0.01."""
    model = make(label_probabilities=(0.5, 0.3, 0.2))
    with torch.no_grad():  # a scale of 1.3, and the mean of the exact posterior is near 0
        model.posterior.network.layers[0].weight.mul_(0.3)
        model.posterior.network.layers[0].bias[LATENT:].fill_(2 * math.log(1.3))
    x, labels = data()
    exact = joint(model, x)
    evidence = exact.logsumexp(-1)
    found = lb.log_likelihood(model, x, samples=20_000).per_example
    torch.testing.assert_close(found, evidence, rtol=0, atol=0.05)
    known = labels >= 0
    expected = torch.where(known, exact.gather(1, labels.clamp(min=0)[:, None])[:, 0], evidence)
    some = lb.Examples(x, labels=labels)
    found = lb.log_likelihood(model, some, samples=20_000).per_example
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    bounds = [lb.evaluate(model, lb.IWAE(k), some).mean for k in (1, 5, 50)]
    elbo = lb.evaluate(model, lb.SupervisedELBO(samples=20), some).mean
    assert elbo < bounds[0] < bounds[1] < bounds[2] < expected.mean() + 0.02


def test_the_elbo_is_the_enumeration_of_the_paper():
    model = make(hidden=(8,))
    x, labels = data()
    torch.manual_seed(0)
    draw = model.draw(x, 3, label=labels)
    torch.manual_seed(0)
    of_label, log_q = [], model.classifier(x).log_softmax(-1)
    for y in range(CATEGORIES):
        code = nn.functional.one_hot(torch.tensor(y), CATEGORIES).double().expand(len(x), -1)
        q = model.posterior.part(torch.cat([x, code], -1))
        z = q.rsample((3,))
        p = model.likelihood.part(torch.cat([z, code.expand(3, -1, -1)], -1))
        prior = model.prior().log_prob(z) - math.log(CATEGORIES)
        of_label.append((p.log_prob(x) + prior - q.log_prob(z)).mean(0))
    of_label = torch.stack(of_label, -1)
    shares = log_q.exp()
    unlabelled = (shares * (of_label - log_q)).sum(-1)
    known = labels >= 0
    at_label = of_label.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    log_q_label = log_q.gather(1, labels.clamp(min=0)[:, None])[:, 0] * known
    expected = torch.where(known, at_label, unlabelled)
    objective = lb.SupervisedELBO(alpha=0.7, samples=3)
    torch.testing.assert_close(objective.bound(draw), expected)
    torch.testing.assert_close(objective.surrogate(draw), expected + 0.7 * log_q_label)
    terms = objective.terms(draw)
    torch.testing.assert_close(terms["classification"], -log_q_label)
    torch.testing.assert_close(terms["bound"], -(terms["rate"] + terms["distortion"]))
    parameters = list(model.parameters())
    found = torch.autograd.grad(objective(draw).sum(), parameters)
    surrogate = (expected + 0.7 * log_q_label).sum()
    for ours, theirs in zip(found, torch.autograd.grad(surrogate, parameters), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_labels_may_be_missing_in_any_way():
    model = make(hidden=(8,))
    x, labels = data()
    floats = torch.where(labels < 0, math.nan, labels.double())
    scores = [
        lb.evaluate(model, lb.SupervisedELBO(), some).per_example
        for some in (
            lb.Examples(x, labels=labels),
            lb.Examples(x, fields={"label": labels}),
        )
    ]
    assert torch.equal(*scores)
    torch.manual_seed(0)
    draw = model.draw(x, label=floats)
    torch.manual_seed(0)
    torch.testing.assert_close(draw.log_w, model.draw(x, label=labels).log_w)
    unknown = torch.full_like(labels, -1)
    scores = [
        lb.evaluate(model, lb.SupervisedELBO(), some).per_example
        for some in (lb.Examples(x), lb.Examples(x, labels=unknown))
    ]
    assert torch.equal(*scores)


def test_without_a_label_decoding_is_the_mean_over_labels():
    model, z = make(label_probabilities=(0.5, 0.3, 0.2)), torch.randn(4, LATENT, dtype=DOUBLE)
    means = [model.decode(z, label=y) for y in range(CATEGORIES)]
    expected = 0.5 * means[0] + 0.3 * means[1] + 0.2 * means[2]
    torch.testing.assert_close(model.decode(z), expected, rtol=1e-6, atol=1e-6)


def test_an_example_without_a_label_is_encoded_with_the_most_probable_one():
    model, (x, labels) = make(hidden=(8,)), data()
    found = model.encode(lb.Examples(x, labels=labels))
    best = torch.where(labels < 0, model.predict(x), labels)
    torch.testing.assert_close(found, model.encode(lb.Examples(x, labels=best)))
    one_hot = nn.functional.one_hot(best, CATEGORIES).double()
    with torch.no_grad():
        expected = model.posterior.part(torch.cat([x, one_hot], -1)).mean
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_an_example_keeps_its_noise_in_every_batch():
    model, (x, labels) = make(hidden=(8,)), data()
    some = lb.Examples(x, labels=labels)
    first = lb.evaluate(model, lb.SupervisedELBO(samples=3), some, batch_size=12).per_example
    for size in (1, 5):
        again = lb.evaluate(model, lb.SupervisedELBO(samples=3), some, batch_size=size)
        torch.testing.assert_close(again.per_example, first, rtol=1e-12, atol=1e-12)


# Use


def separated(count=120):
    """Three clusters of binary data. Every tenth example has a label."""
    generator = torch.Generator().manual_seed(3)
    classes = torch.arange(count) % CATEGORIES
    means = torch.full((CATEGORIES, 9), 0.1)
    for y in range(CATEGORIES):
        means[y, 3 * y : 3 * y + 3] = 0.9
    x = (torch.rand(count, 9, generator=generator) < means[classes]).float()
    labels = torch.where(torch.arange(count) % 10 == 0, classes, -1)
    return x, labels, classes


def test_few_labels_are_enough_for_clusters(tmp_path):
    x, labels, classes = separated()
    torch.manual_seed(0)
    model = lb.SemiSupervised(
        lb.StandardNormal(1),
        lb.mlp(9, 16, CATEGORIES),
        lb.Given(lb.Gaussian(lb.mlp(12, 16, 2)), "y", categories=CATEGORIES),
        lb.Given(lb.Bernoulli(lb.mlp(4, 16, 9)), "y", categories=CATEGORIES),
        CATEGORIES,
    )
    some = lb.Examples(x, labels=labels)
    objective = lb.SupervisedELBO(alpha=5.0)
    run = lb.fit(model, objective, some, epochs=60, learning_rate=0.01, seed=0, progress=False)
    assert run.history[-1]["train"]["classification"] < 0.02
    assert (model.predict(x) == classes).double().mean() > 0.9
    probabilities = model.predict_probabilities(x)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(x)))
    for y in range(CATEGORIES):  # samples of a label look like its cluster
        pixels = model.sample(300, label=y, seed=0).mean(0).reshape(CATEGORIES, 3).mean(1)
        assert pixels.argmax() == y
    assert model.sample(5).shape == (5, 9)
    label = torch.tensor([2, -1, -1, -1])
    assert model.sample(4, label=label).shape == (4, 9)
    assert torch.equal(model.sample(5, seed=1), model.sample(5, seed=1))
    assert model.encode(some).shape == (120, 1)
    assert torch.equal(model.reconstruct(some, label=1), model.reconstruct(some, label=1))
    own = model.reconstruct(x).reshape(-1, CATEGORIES, 3).mean(2).argmax(1)
    assert (own == model.predict(x)).double().mean() > 0.9
    again = lb.load(lb.save(model, tmp_path / "model"))
    assert torch.equal(again.predict_probabilities(x), probabilities)
    assert torch.equal(again.sample(4, seed=0), model.sample(4, seed=0))


def test_compiled_steps_agree(traced, fresh_compiler):
    x, labels = data()

    def make_steps():
        model = make(hidden=(8,)).float()
        return make_step(model, lb.SupervisedELBO(), lb.Examples(x.float(), labels=labels))

    assert_agreement(make_steps)


# What is refused


@pytest.mark.parametrize("bad", [-2, 3])
def test_labels_outside_of_the_categories_are_named(bad):
    model, (x, labels) = make(), data()
    labels[5] = bad
    with pytest.raises(DataError, match=f"the field 'label' is {bad} in row 5"):
        lb.fit(model, lb.SupervisedELBO(), lb.Examples(x, labels=labels), progress=False)


def test_a_label_outside_of_the_categories_is_not_decoded():
    """Its one-hot code would be all zeros, and the result that of no category."""
    model, (x, labels) = make(), data()
    for wrong in (CATEGORIES, -2):
        with pytest.raises(DataError, match=f"the field 'label' is {wrong} in row 0"):
            model.sample(2, label=wrong)
        with pytest.raises(DataError, match=f"the field 'label' is {wrong} in row 0"):
            model.decode(torch.zeros(2, LATENT), label=wrong)
        with pytest.raises(DataError, match=f"the field 'label' is {wrong} in row 1"):
            model.encode(
                lb.Examples(x, labels=labels.clone().index_fill(0, torch.tensor(1), wrong))
            )
    assert model.sample(3, label=[-1, 0, 2]).shape == (3, SIZE)


def test_data_outside_of_the_support_are_named():
    model = make(likelihood=lb.Bernoulli(lb.mlp(LATENT + CATEGORIES, SIZE)))
    with pytest.raises(DataError, match="row 0"):
        lb.evaluate(model, lb.SupervisedELBO(), data()[0])


def test_invalid_settings_and_missing_labels_say_why():
    for settings in ({"label_probabilities": (0.5, 0.6, 0.1)}, {"label_probabilities": (1.0,)}):
        with pytest.raises(SettingsError, match="3 positive values whose sum is 1"):
            make(**settings)
    model, (x, labels) = make(), data()
    with pytest.raises(DataError, match="pass label="):
        model.decode(torch.zeros(2, LATENT), label=-1)
    with pytest.raises(DataError, match="pass label="):
        model.conditioned(x, {"label": labels})
    for gradient in ("dreg", "score-function"):
        draw = model.draw(x, 3, gradient)
        with pytest.raises(UnsupportedError, match="sums some latents out"):
            lb.IWAE(3, gradient)(draw)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8)))
    draw = vae.draw(x.float())
    with pytest.raises(UnsupportedError, match="for a model that classifies"):
        lb.SupervisedELBO()(draw)
    with pytest.raises(SettingsError, match="alpha"):
        lb.SupervisedELBO(alpha=-1.0)
    model.classifier = lb.mlp(SIZE, 2).double()
    with pytest.raises(ShapeError, match="a logit for each category"):
        model.draw(x)


def test_the_baseline_of_a_bound_on_labels_contains_the_labels():
    """The bound of labelled rows is on log p(x, y), so independent entries have to explain y."""
    x, _ = data(8)
    labels = torch.tensor([0, 1, -1, 2, 1, -1, 1, 0])
    alone = score_independent_entries(make(), lb.Examples(x))
    found = score_independent_entries(make(), lb.Examples(x, labels=labels))
    # Each known label is scored by the others: 5 of 6, with 1/3 more for each of 3 categories.
    others = [1, 2, 0, 2, 2, 1]
    expected = sum(math.log((count + 1 / 3) / 6) for count in others) / 8
    assert found - alone == pytest.approx(expected)


def test_a_bound_on_labels_has_no_bits_per_dimension_of_the_values():
    model = lb.SemiSupervised(
        lb.StandardNormal(2),
        lb.mlp(4, 3),
        lb.Given(lb.Gaussian(lb.mlp(7, 4)), "y", categories=3),
        lb.Given(lb.Bernoulli(lb.mlp(5, 4)), "y", categories=3),
        categories=3,
    )
    x = torch.randint(2, (6, 4)).float()
    alone = lb.Examples(x, levels=2)
    for labels, is_known in [(None, False), ([-1] * 6, False), ([0, -1, 1, 2, 0, 1], True)]:
        data = alone
        if labels is not None:
            data = dataclasses.replace(alone, labels=torch.tensor(labels))
        found = lb.evaluate(model, lb.ELBO(), data)
        wanted = None if is_known else -found.mean / (4 * math.log(2))
        assert found.bits_per_dimension == (wanted and pytest.approx(wanted))


def test_the_baseline_of_a_table_contains_the_labels():
    plain = lb.load_data(make_frame(4), test_fraction=0.0).train
    labelled = dataclasses.replace(plain, labels=torch.tensor([0, 1, -1, 1]))
    alone, found = (score_entries_alone(make(), each, None, seed=0) for each in (plain, labelled))
    expected = (math.log((1 / 3) / 3) + 2 * math.log((1 + 1 / 3) / 3)) / 4
    assert found - alone == pytest.approx(expected)


@pytest.mark.parametrize("row", [0, 1, 7])
def test_a_label_beyond_the_categories_is_named_wherever_it_is(row):
    """In the first rows, which a trial draws, it used to be an index out of bounds."""
    labels = torch.zeros(10, dtype=torch.long)
    labels[row] = 5
    model = lb.SemiSupervised(
        lb.StandardNormal(2),
        classifier=lb.mlp(4, 3),
        posterior=lb.Given(lb.Gaussian(lb.mlp(7, 4)), "y", categories=3),
        likelihood=lb.Given(lb.Gaussian(lb.mlp(5, 8)), "y", categories=3),
        categories=3,
    )
    data = lb.Examples(torch.randn(10, 4), labels=labels)
    for use in (lb.fit, lb.evaluate):
        with pytest.raises(
            DataError, match=rf"the field 'label' is 5 in row {row}; the labels are"
        ):
            use(model, lb.SupervisedELBO(), data)
