"""Conditionals that depend on fields, and posteriors that are points."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    Distribution,
    Normal,
)

import lowerbound as lb
from lowerbound.describe import build, describe
from lowerbound.distributions import (
    PointMass,
)
from lowerbound.errors import DataError, ShapeError

sys.path.insert(0, str(Path(__file__).parent))
from constructors import CONDITIONALS_OF_A_FIELD

FIELDS = {
    "label": torch.tensor([0, 1, 2, 2, 1]),
    "size": torch.linspace(-1.0, 1.0, 5),
    "exposure": torch.tensor([1.0, 0.5, 20.0, 3.0, 1000.0]),
}


def code(label, categories=3):
    return nn.functional.one_hot(label, categories).float()


# Given


@pytest.mark.parametrize("name", CONDITIONALS_OF_A_FIELD)
def test_conditionals_of_a_field_keep_leading_dimensions_as_batch(name):
    torch.manual_seed(0)
    part = CONDITIONALS_OF_A_FIELD[name]()
    fields = {field: FIELDS[field] for field in part.needs}
    z = torch.rand(3, 5, 4)
    p = part(z, **fields)
    assert isinstance(p, Distribution)
    assert (p.batch_shape, p.event_shape) == ((3, 5), (3,))
    x = torch.zeros(5, 3)
    one = part(z[:, 3:4], **{field: value[3:4] for field, value in fields.items()})
    torch.testing.assert_close(one.log_prob(x[3:4])[:, 0], p.log_prob(x)[:, 3])
    other = part(z, **fields | {"label": (FIELDS["label"] + 1) % 3, "size": FIELDS["size"] + 1})
    assert other.sample().shape == (3, 5, 3)
    if name != "point":
        assert (other.log_prob(x) != p.log_prob(x)).any()


@pytest.mark.parametrize("name", CONDITIONALS_OF_A_FIELD)
def test_conditionals_of_a_field_are_rebuilt_from_their_description(name):
    part = CONDITIONALS_OF_A_FIELD[name]()
    again = build(describe(part))
    again.load_state_dict(part.state_dict())
    assert describe(again) == describe(part)
    assert again.needs == part.needs


def test_vectors_get_the_field_after_their_own_entries():
    network = nn.Linear(7, 4)
    p = lb.Given(lb.Gaussian(network), "label", categories=3)(torch.ones(2, 5, 4), **FIELDS)
    inputs = torch.cat([torch.ones(5, 4), code(FIELDS["label"])], -1)
    torch.testing.assert_close(p.mean[1], network(inputs)[:, :2])


def test_pictures_get_the_field_as_channels():
    seen = []
    network = lb.flatten_leading(nn.Conv2d(9, 2, 1), (9, 6, 7), (2, 6, 7))
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    part = lb.Gaussian(network)
    for name, categories in [("label", 3), ("size", None), ("map", 2), ("mask", None)]:
        part = lb.Given(part, name, categories=categories)
    fields = FIELDS | {"map": torch.ones(5, 6, 7).long(), "mask": torch.rand(5, 1, 6, 7) < 0.5}
    x = torch.rand(5, 2, 6, 7)
    part(x, **fields)
    channels = seen[0]
    torch.testing.assert_close(channels[:, :2], x)
    torch.testing.assert_close(channels[:, 2:3], fields["mask"].float())
    assert channels[:, 3].eq(0).all()
    assert channels[:, 4].eq(1).all()
    torch.testing.assert_close(channels[:, 5], FIELDS["size"][:, None, None].expand(5, 6, 7))
    torch.testing.assert_close(channels[:, 6:, 2, 3], code(FIELDS["label"]))


def test_a_prior_gets_the_field_alone():
    prior = lb.Given(lb.Gaussian(lb.mlp(3, 4)), "label", categories=3)
    p = prior(label=FIELDS["label"])
    assert p.batch_shape == (5,)
    torch.testing.assert_close(p.mean[2], p.mean[3])
    assert not torch.allclose(p.mean[0], p.mean[3])


def conditional_autoencoder(shape=(1, 8, 8), categories=10, latent=2, likelihood=lb.Bernoulli):
    torch.manual_seed(0)
    channels, *sides = shape
    return lb.LatentModel(
        prior=lb.Given(lb.Gaussian(lb.mlp(categories, 2 * latent)), "label", categories),
        posterior=lb.Given(
            lb.Gaussian(lb.mlp((channels + categories, *sides), 16, 2 * latent)),
            "label",
            categories,
        ),
        likelihood=lb.Given(
            likelihood(lb.mlp(latent + categories, 16, shape)), "label", categories
        ),
    )


@pytest.fixture(scope="module")
def digits():
    return lb.load_data("digits", pixels="binarize-once")


def test_a_conditional_autoencoder_of_digits(digits, tmp_path):
    vae = conditional_autoencoder()
    few = digits.test.subset(torch.arange(40))
    assert vae.needs == ("label",)
    bounds = lb.evaluate(vae, lb.IWAE(5), few).per_example
    torch.testing.assert_close(lb.evaluate(vae, lb.IWAE(5), few, batch_size=7).per_example, bounds)
    for gradient in ("sticking-the-landing", "dreg"):
        draw = vae.draw(few.batch(torch.arange(5)), 3, gradient, label=few.labels[:5])
        lb.IWAE(3, gradient).surrogate(draw).sum().backward()
        assert all(p.grad is not None for p in vae.likelihood.parameters())
    assert vae.sample(10, label=3, seed=0).shape == (10, 1, 8, 8)
    own, changed = vae.reconstruct(few), vae.reconstruct(few, label=0)
    zero = few.labels == 0
    torch.testing.assert_close(own[zero], changed[zero])
    assert not torch.allclose(own[~zero], changed[~zero])
    again = lb.load(lb.save(vae, tmp_path / "cvae"))
    torch.testing.assert_close(lb.evaluate(again, lb.IWAE(5), few).per_example, bounds)
    gaps = lb.inference_gaps(vae, few.first(4), samples=20, steps=2)
    assert gaps.amortised_bound.mean <= gaps.best_bound.mean + 1e-6


def test_a_conditional_model_of_one_label_is_the_model_of_that_label(digits):
    """With the columns of the label moved into the biases, an unconditional model is the same."""
    few = digits.test.subset((digits.test.labels == 3).nonzero()[:, 0])
    vae = conditional_autoencoder()
    own = lb.Gaussian(lb.mlp((1, 8, 8), 16, 4))
    prior = lb.Gaussian(lb.constant(4))
    decoder = lb.Bernoulli(lb.mlp(2, 16, (1, 8, 8)))
    with torch.no_grad():
        for given, plain, size in [(vae.posterior, own, 64), (vae.likelihood, decoder, 2)]:
            layers = [m for m in given.network.modules() if isinstance(m, nn.Linear)]
            targets = [m for m in plain.network.modules() if isinstance(m, nn.Linear)]
            first = layers[0].weight
            targets[0].weight.copy_(first[:, :size])
            label = first[:, size:].unflatten(1, (10, -1))[:, 3].sum(1)
            targets[0].bias.copy_(layers[0].bias + label)
            targets[1].load_state_dict(layers[1].state_dict())
        next(prior.parameters()).copy_(vae.prior.network(code(torch.tensor([3]), 10))[0])
    plain = lb.LatentModel(prior, own, decoder)
    torch.testing.assert_close(
        lb.evaluate(vae, lb.IWAE(5), few).per_example,
        lb.evaluate(plain, lb.IWAE(5), few).per_example,
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models_of_fields_compile_in_one_graph():
    def given(part):
        return lb.Given(part, "label", categories=3)

    vae = lb.LatentModel(
        given(lb.Gaussian(lb.mlp(3, 4))),
        lb.Given(given(lb.Gaussian(lb.mlp(11, 4))), "observed"),
        lb.Masked(given(lb.Gaussian(lb.mlp(5, 8)))),
    )
    x, observed = torch.rand(5, 4), torch.rand(5, 4) < 0.5

    def log_w(x, label, observed):
        return vae.draw(x, 2, label=label, observed=observed).log_w

    found = []
    for function in (log_w, torch.compile(log_w, fullgraph=True, backend="eager")):
        torch.manual_seed(1)
        found.append(function(x, FIELDS["label"], observed))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 1, 3, 2], "data: the field 'label' is 3 in row 2, and its 3 categories are"),
        ([0, -1, 2, 2], "is -1 in row 1"),
        ([0.0, 1.0, 2.0, 0.5], "is 0.5 in row 3"),
    ],
)
def test_what_is_not_a_category_is_refused_by_row(label, message):
    part = lb.Given(lb.Gaussian(lb.mlp(5, 8)), "kind", categories=3)
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(2, 4)),
        lb.Given(lb.Gaussian(lb.mlp(5, 4)), "label", categories=3),
    )
    data = lb.Examples(torch.zeros(4, 2), fields={"label": torch.tensor(label)})
    for use in (
        lambda: lb.evaluate(vae, lb.ELBO(), data),
        lambda: lb.log_likelihood(vae, data, 5),
        lambda: vae.encode(data),
        lambda: lb.fit(vae, lb.ELBO(), data, epochs=1, progress=False),
    ):
        with pytest.raises(DataError, match=message):
            use()
    with pytest.raises(DataError, match="'label' is 7 in row 0"):
        vae.sample(3, label=7)
    assert part.needs == ("kind",)


def test_integers_without_categories_and_networks_of_another_size_are_refused():
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(2, 4)),
        lb.Given(lb.Gaussian(lb.mlp(3, 4)), "label"),
    )
    data = lb.Examples(torch.zeros(4, 2), labels=torch.arange(4))
    with pytest.raises(DataError, match=r"'label' contains integers.*categories=\.\.\."):
        lb.evaluate(vae, lb.ELBO(), data)
    part = lb.Given(lb.Gaussian(lb.mlp(4, 6)), "label", categories=3)
    with pytest.raises(ShapeError, match=r"has the shape \(7,\), but the network takes \(4,\)"):
        part(torch.zeros(5, 4), label=FIELDS["label"])
    with pytest.raises(ShapeError, match=r"'label' has 5 entries for inputs of shape \(3, 4\)"):
        part(torch.zeros(3, 4), label=FIELDS["label"])


# Point


def test_a_point_gives_the_score_of_a_regularised_autoencoder():
    torch.manual_seed(0)
    encoder, decoder = lb.mlp(5, 2), lb.mlp(2, 5)
    vae = lb.LatentModel(
        lb.StandardNormal(2), lb.Point(encoder), lb.Gaussian(decoder, scale=0.5)
    ).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    z = encoder(x)
    expected = Normal(decoder(z), 0.5).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    for gradient in ("pathwise", "sticking-the-landing"):
        draw = vae.draw(x, 3, gradient)
        torch.testing.assert_close(lb.ELBO(3, gradient=gradient).bound(draw), expected)
    (found,) = torch.autograd.grad(
        lb.ELBO().surrogate(vae.draw(x)).sum(), [next(encoder.parameters())]
    )
    (gradient,) = torch.autograd.grad(expected.sum(), [next(encoder.parameters())])
    torch.testing.assert_close(found, gradient)
    assert not vae.posterior.normalized
    assert not lb.Given(lb.Point(lb.mlp(8, 2)), "label", categories=3).normalized
    torch.testing.assert_close(vae.encode(x), z)


def test_a_point_is_all_probability_at_one_place():
    q = PointMass(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert q.log_prob(q.rsample((3,))).eq(0).all()
    assert q.log_prob(q.loc + 1e-6).eq(-torch.inf).all()
    assert q.variance.eq(0).all()


@pytest.mark.parametrize("value", [True, np.uint16(1), np.array([True] * 3), [1.0] * 3])
def test_a_category_may_be_any_number_of_its_value(value):
    torch.manual_seed(0)
    likelihood = lb.Given(lb.Gaussian(lb.mlp(4, 6)), "treated", categories=2)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)
    examples = lb.Examples(torch.randn(6, 3), fields={"treated": [True, False] * 3})
    lb.fit(vae, lb.ELBO(), examples, epochs=1, progress=False)
    assert torch.equal(vae.sample(3, seed=0, treated=value), vae.sample(3, seed=0, treated=1))
    with pytest.raises(DataError, match=r"treated has text, but entry \d is None"):
        vae.sample(3, treated=None)
