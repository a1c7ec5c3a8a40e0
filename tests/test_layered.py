"""Models with several stochastic layers: against closed forms, and against models of one layer."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal, closed_form_kl, multiply_normals, shift_normal
from lowerbound.errors import DataError, SettingsError, ShapeError, UnsupportedError
from lowerbound.runtime.modes import seeded
from lowerbound.runtime.noise import derived_seed

sys.path.insert(0, str(Path(__file__).parent))
from constructors import IMAGE, MODELS, images
from test_groups import DOUBLE, TOP_DOWN, TwoLayers, affine, at_the_exact_posterior, two_layers

LAYERED = [name for name in MODELS if name.startswith("layered")]


class Top(nn.Module):
    """N(0, I) in double precision."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self):
        return affine(torch.zeros(self.size, dtype=DOUBLE))


def as_layered(model):
    """The same parts as those of a model that was written out, as a LayeredModel."""
    top = Top(model.units)
    if model.top_down:
        features = [nn.Identity(), nn.Identity()]
        posteriors = [model.q1, model.q2]
        return lb.LayeredModel([model.p1, top], posteriors, model.p0, features=features)
    return lb.LayeredModel([model.p1, top], [model.q1, model.q2], model.p0)


def vae_parts(shape=IMAGE, latent=2):
    return (
        lb.StandardNormal(latent),
        lb.Gaussian(lb.mlp(shape, 8, 2 * latent)),
        lb.Bernoulli(lb.mlp(latent, 8, shape)),
    )


# Against models that were written out, and closed forms


@TOP_DOWN
@pytest.mark.parametrize("gradient", ["pathwise", "dreg", "score-function"])
def test_a_layered_model_draws_what_a_model_that_is_written_out_draws(top_down, gradient):
    written, x = two_layers(top_down)
    layered, draws = as_layered(written), []
    for model in (written, layered):
        torch.manual_seed(0)
        draws.append(model.draw(x, 7, gradient))
    one, other = draws
    assert list(one.groups) == list(other.groups)
    assert torch.equal(one.z, other.z)
    for term in ("log_likelihood", "log_prior", "log_q", "log_w", "rate"):
        # The prior of z2 is a torch.distributions.Normal in one of them, whose density rounds
        # differently on some processors.
        torch.testing.assert_close(getattr(one, term), getattr(other, term), rtol=1e-14, atol=1e-13)


@TOP_DOWN
def test_points_of_a_layer_are_those_for_the_points_that_it_depends_on(top_down):
    written, x = two_layers(top_down)
    layered = as_layered(written)
    with torch.no_grad():
        if top_down:
            z2 = written.q2(x).mean
            z1 = written.q1(torch.cat([x, z2], -1)).mean
        else:
            z1 = written.q1(x).mean
            z2 = written.q2(z1).mean
    points = layered.encode(x)
    torch.testing.assert_close(points["z1"], z1)
    torch.testing.assert_close(points["z2"], z2)
    torch.testing.assert_close(layered.reconstruct(x), layered.decode(points))


def one_dimension(top_down, width=1.0):
    """The exact posterior in closed form, with all scales multiplied by ``width``."""
    if not top_down:
        model = at_the_exact_posterior()
    else:
        model = TwoLayers(top_down=True, sizes=(1, 1, 1)).double()
        p1, p0, sd1, sd0 = 0.7, 0.9, 0.8, 0.5
        spread = (p0 * sd1) ** 2 + sd0**2  # of x given z2
        posterior_2 = 1 / (1 + (p0 * p1) ** 2 / spread)
        posterior_1 = 1 / (1 / sd1**2 + p0**2 / sd0**2)
        of_x, of_z2 = posterior_1 * p0 / sd0**2, posterior_1 * p1 / sd1**2
        with torch.no_grad():
            for layer, weight, scale in (
                (model.p1, [p1], sd1),
                (model.p0, [p0], sd0),
                (model.q2, [posterior_2 * p0 * p1 / spread], math.sqrt(posterior_2)),
                (model.q1, [of_x, of_z2], math.sqrt(posterior_1)),
            ):
                layer.weight.copy_(torch.tensor([weight], dtype=DOUBLE))
                layer.bias.fill_(0.0)
                layer.log_scale.fill_(math.log(scale))
    with torch.no_grad():
        for layer in (model.q1, model.q2):
            layer.log_scale.add_(math.log(width))
    return model


@TOP_DOWN
def test_at_the_exact_posterior_every_weight_is_the_evidence(top_down):
    written, x = one_dimension(top_down), torch.randn(4, 1, dtype=DOUBLE)
    draw = as_layered(written).draw(x, 5)
    expected = written.evidence().log_prob(x).expand(5, -1)
    torch.testing.assert_close(draw.log_w, expected, rtol=0, atol=1e-9)


@TOP_DOWN
def test_bounds_approach_the_evidence_in_closed_form_from_below(top_down):
    """The widened posterior's weights have finite variance: 5,000 of them err by 0.01."""
    written = one_dimension(top_down, width=1.4)
    model = as_layered(written)
    torch.manual_seed(1)
    x = written.evidence().sample((1000,))
    exact = written.evidence().log_prob(x).mean().item()
    bounds = [lb.evaluate(model, lb.IWAE(k), x).mean for k in (1, 5, 50)]
    assert bounds[0] + 0.05 < bounds[1] < bounds[2] < exact < bounds[2] + 0.02
    likelihood = lb.log_likelihood(model, x, samples=1000)
    assert bounds[2] < likelihood.mean == pytest.approx(exact, abs=0.005)


@TOP_DOWN
def test_annealing_agrees_with_the_evidence(top_down):
    written = one_dimension(top_down, width=1.4)
    x = torch.tensor([[-1.0], [0.5], [2.0]], dtype=DOUBLE)
    found = lb.annealed_log_likelihood(
        as_layered(written), x, distributions=200, chains=200, leapfrog_steps=3
    )
    # The error of the log of a mean of weights, by the delta method.
    errors = (1 / found.effective_sample_sizes - 1 / 200).sqrt()
    assert ((found.per_example - written.evidence().log_prob(x)).abs() < 4 * errors).all()
    assert errors.max() < 0.1


def test_one_layer_is_a_latent_model_bit_for_bit():
    prior, posterior, likelihood = vae_parts()
    one = lb.LatentModel(prior, posterior, likelihood)
    layered = lb.LayeredModel([prior], [posterior], likelihood)
    x = images("binary")
    for objective in (lb.ELBO(3), lb.ELBO(3, "sampled"), lb.IWAE(5, "dreg")):
        found = []
        for model in (one, layered):
            torch.manual_seed(0)
            value = objective(model.draw(x, objective.samples, objective.gradient))
            gradients = torch.autograd.grad(value.sum(), list(model.parameters()))
            named = dict(zip(map(id, model.parameters()), gradients, strict=True))
            found.append((value, [named[id(p)] for p in one.parameters()]))
        (value, gradients), (other, others) = found
        assert torch.equal(value, other)
        for gradient, another in zip(gradients, others, strict=True):
            torch.testing.assert_close(gradient, another, rtol=1e-5, atol=1e-7)
        scores = [lb.evaluate(model, objective, x).per_example for model in (one, layered)]
        assert torch.equal(*scores)
    for use in ("encode", "reconstruct"):
        assert torch.equal(getattr(one, use)(x), getattr(layered, use)(x))
    assert torch.equal(one.sample(9, seed=1), layered.sample(9, seed=1))
    assert torch.equal(one.decode(torch.ones(4, 2)), layered.decode(torch.ones(4, 2)))
    assert torch.equal(
        lb.log_likelihood(one, x, 20, compile="never").per_example,
        lb.log_likelihood(layered, x, 20).per_example,
    )


@pytest.mark.parametrize("name", LAYERED)
def test_the_joint_distributions_are_those_of_the_draw(name):
    model, x = MODELS[name]().double(), images(name).double()
    draw = model.draw(x, 3)
    parts = model.conditioned(x)
    torch.testing.assert_close(parts.prior.log_prob(draw.z), draw.log_prior)
    torch.testing.assert_close(parts.q.log_prob(draw.z), draw.log_q)
    torch.testing.assert_close(parts.likelihood(draw.z).log_prob(x), draw.log_likelihood)
    assert parts.q.rsample((4,)).shape == (4, 11, 5)
    assert parts.draw_from_prior(4, 11).shape == (4, 11, 5)
    torch.manual_seed(0)
    z = parts.prior.sample((20_000,))  # the mean of the top layer has a standard error of 0.007
    top = parts.prior.split(z)["z2"]
    assert top.mean(0).abs().max() < 0.04
    assert parts.prior.support.check(z).all()


# Merging


def test_a_product_of_gaussians_is_normalised():
    torch.manual_seed(0)
    first, second = (
        DiagonalNormal(torch.randn(3, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)) for _ in "ab"
    )
    product = multiply_normals(first, second)
    z = torch.randn(50, 3, dtype=DOUBLE)
    ratio = first.log_prob(z) + second.log_prob(z) - product.log_prob(z)
    torch.testing.assert_close(ratio, ratio[:1].expand(50))
    precisions = 1 / first.variance + 1 / second.variance
    torch.testing.assert_close(1 / product.variance, precisions)
    far = DiagonalNormal(torch.zeros(1), torch.tensor([60.0]))
    exact = DiagonalNormal(torch.ones(1), torch.tensor([-60.0]))
    assert multiply_normals(far, exact).mean.item() == 1.0  # in float32, without overflow


def test_relative_to_the_prior_the_rate_is_that_of_the_paper():
    r"""Vahdat & Kautz 2020, equation 2: the sum of half of
    :math:`\Delta\mu^2 / \sigma^2 + \Delta\sigma^2 - \log \Delta\sigma^2 - 1`.
    """
    torch.manual_seed(0)
    prior, relative = (
        DiagonalNormal(torch.randn(3, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)) for _ in "ab"
    )
    shift, spread = relative.loc, relative.variance
    expected = 0.5 * (shift.square() / prior.variance + spread - spread.log() - 1).sum()
    torch.testing.assert_close(closed_form_kl(shift_normal(relative, prior), prior), expected)


def test_a_ladder_multiplies_the_evidence_of_the_data_with_the_prior():
    model = MODELS["layered, ladder"]()
    x = images("layered, ladder")
    draw = model.draw(x, 3)
    z2, z1 = draw.groups["z2"], draw.groups["z1"]
    first = model.features[0](x)
    prior = model.priors[0](z2.z)
    torch.testing.assert_close(z1.q.mean, multiply_normals(model.posteriors[0](first), prior).mean)
    torch.testing.assert_close(z2.q.mean, model.posteriors[1](model.features[1](first)).mean)
    assert z1.analytic_rate is not None  # in closed form, because both share the path
    torch.testing.assert_close(draw.rate, z1.rate + z2.rate)


# What users expect of a model


@pytest.mark.parametrize("name", LAYERED)
def test_a_saved_model_is_the_same_without_a_constructor(name, tmp_path):
    model, x = MODELS[name](), images(name)
    again = lb.load(lb.save(model, tmp_path / "model"))
    for use in (lambda m: lb.evaluate(m, lb.ELBO(3), x).per_example, lambda m: m.sample(4, seed=0)):
        assert torch.equal(use(model), use(again))


def test_decoding_takes_any_layers():
    model = MODELS["layered, bottom up"]().double()
    top = torch.randn(4, 2, dtype=DOUBLE)
    z1 = model.priors[0](top).mean
    expected = model.likelihood(z1[None]).mean[0]
    torch.testing.assert_close(model.decode(top), expected)
    torch.testing.assert_close(model.decode({"z2": top}), expected)
    torch.testing.assert_close(model.decode({"z1": z1}), expected)
    torch.testing.assert_close(model.decode({"z2": top + 9, "z1": z1}), expected)
    for z, error, message in (
        ({"z3": top}, SettingsError, r"the layers are z1, z2; .* not of 'z3'"),
        ({}, SettingsError, "at least one"),
        ({"z1": top}, ShapeError, r"z1 have the shape \(4, 2\); expected \('N', 3\)"),
        ({"z1": z1, "z2": top[:2]}, ShapeError, "different numbers of latents"),
    ):
        with pytest.raises(error, match=message):
            model.decode(z)


def labelled(part, inputs):
    return lb.Given(lb.Gaussian(lb.mlp(inputs + 3, 8, 4)), "label", categories=3)


def test_every_layer_may_depend_on_fields():
    torch.manual_seed(0)
    x, label = torch.randn(12, 6), torch.arange(12) % 3
    data = lb.Examples(x, labels=label)
    model = lb.LayeredModel(
        priors=[labelled("z1", 2), lb.Given(lb.Gaussian(lb.mlp(3, 4)), "label", categories=3)],
        posteriors=[labelled("q1", 6), labelled("q2", 2)],
        likelihood=lb.Given(lb.Gaussian(lb.mlp(5, 12)), "label", categories=3),
    )
    assert model.needs == ("label",)
    assert model.sample(4, label=2).shape == (4, 6)
    assert not torch.equal(model.sample(4, label=2, seed=0), model.sample(4, label=1, seed=0))
    assert not torch.equal(model.reconstruct(data, label=1), model.reconstruct(data))
    draw = model.draw(x, 3, label=label)
    parts = model.conditioned(x, {"label": label})
    torch.testing.assert_close(parts.prior.log_prob(draw.z), draw.log_prior)
    likelihood = lb.log_likelihood(model, data, samples=500)
    annealed = lb.annealed_log_likelihood(
        model, data, distributions=100, chains=8, leapfrog_steps=3
    )
    assert annealed.mean == pytest.approx(likelihood.mean, abs=0.5)
    with pytest.raises(DataError, match="needs the field 'label'"):
        model.draw(x)
    lb.fit(model, lb.ELBO(), data, epochs=1, progress=False)


@pytest.mark.parametrize("name", ["layered, bottom up", "layered, ladder"])
def test_health_looks_at_each_layer(name):
    model, x = MODELS[name](), images(name, 30)
    health = lb.latent_health(model, x, samples=4)
    assert {key: group.units for key, group in health.groups.items()} == {"z1": 3, "z2": 2}
    rates = lb.evaluate(model, lb.ELBO(200), x).terms
    for key, group in health.groups.items():
        assert group.rate == pytest.approx(rates[f"rate {key}"].mean, rel=0.2, abs=0.1)


def test_training_reports_nats_by_layer_and_resumes_exactly(tmp_path):
    x = images("layered, states", 20)
    settings = {"seed": 3, "progress": False, "batch_size": 10}
    make = MODELS["layered, states"]
    torch.manual_seed(0)
    start = make()
    weights = start.state_dict()
    through, resumed = make(), make()
    for model in (through, resumed):
        model.load_state_dict(weights)
    run = lb.fit(through, lb.ELBO(), x, epochs=4, directory=tmp_path / "a", **settings)
    assert {"rate z1", "rate z2"} <= run.history[-1]["train"].keys()
    lb.fit(resumed, lb.ELBO(), x, epochs=2, directory=tmp_path / "b", **settings)
    lb.fit(resumed, lb.ELBO(), x, epochs=4, directory=tmp_path / "b", resume=True, **settings)
    for key, value in through.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_layers_of_flows_and_pictures_work_together():
    model = lb.LayeredModel(
        priors=[lb.Gaussian(lb.mlp(2, (4, 3, 3))), lb.Flow("maf", 2, hidden_features=(8,))],
        posteriors=[
            lb.Gaussian(lb.mlp(IMAGE, (4, 3, 3))),
            lb.Flow("maf", 2, context=(2, 3, 3), hidden_features=(8,)),
        ],
        likelihood=lb.Bernoulli(lb.mlp((2, 3, 3), IMAGE)),
    )
    x = images("binary", 5)
    draw = model.draw(x, 3)
    assert draw.z.shape == (3, 5, 20)
    torch.testing.assert_close(model.conditioned(x).prior.log_prob(draw.z), draw.log_prior)
    assert {name: tuple(z.shape) for name, z in model.encode(x).items()} == {
        "z1": (5, 2, 3, 3),
        "z2": (5, 2),
    }
    assert model.sample(3).shape == (3, *IMAGE)
    assert math.isfinite(lb.evaluate(model, lb.IWAE(3), x).mean)


@pytest.mark.parametrize("name", LAYERED)
def test_weights_of_groups_change_what_is_maximised_and_not_the_bound(name):
    model, x = MODELS[name]().double(), images(name).double()
    draw = model.draw(x, 3)
    weighted = lb.ELBO(3, beta=0.5, group_weights={"z1": 4.0})
    rates = {group: latent.rate for group, latent in draw.groups.items()}
    penalty = 0.5 * (4 * rates.pop("z1") + sum(rates.values()))
    expected = draw.log_likelihood.mean(0) - penalty
    torch.testing.assert_close(weighted.surrogate(draw), expected)
    assert torch.equal(weighted.bound(draw), lb.ELBO(3).bound(draw))
    same = lb.ELBO(3, group_weights={"z1": 1.0})
    assert torch.equal(same.surrogate(draw), lb.ELBO(3).surrogate(draw))
    with pytest.raises(UnsupportedError, match="no latents 'z9'; its groups are 'z"):
        lb.ELBO(group_weights={"z9": 2.0}).surrogate(draw)


@pytest.mark.parametrize("compiled", ["never", "always"])
def test_a_schedule_of_a_group_is_followed_recorded_and_saved(compiled, tmp_path):
    objective = lb.ELBO(group_weights={"z1": lb.Ramp(10.0, 1.0, steps=8), "z2": 1.0})
    assert list(objective.schedules()) == ["group_weights z1"]
    held = objective.holding({"group_weights z1": 3.0})
    assert held.group_weights == {"z1": 3.0, "z2": 1.0}
    assert objective.group_weights["z1"].end == 1.0
    x = images("layered, ladder", 20)
    run = lb.fit(
        MODELS["layered, ladder"](), objective, x, steps=4, batch_size=5, compile=compiled,
        directory=tmp_path / "run", progress=False, pictures_every=0,
    )  # fmt: skip
    record = run.history[-1]["schedules"]["group_weights z1"]
    assert record == {"reached": 5.5, "end": 1.0, "ended": False}
    again = lb.fit(
        MODELS["layered, ladder"](), objective, x, steps=8, batch_size=5, compile=compiled,
        directory=tmp_path / "run", resume=True, progress=False, pictures_every=0,
    )  # fmt: skip
    assert again.history[-1]["schedules"]["group_weights z1"]["ended"]


@pytest.mark.parametrize(
    "settings",
    [{"free_bits": 0.1}, {"capacity": 3.0}, {"gradient": "dreg"}, {"gradient": "score-function"}],
)
def test_weights_of_groups_exclude_other_penalties_and_gradients(settings):
    with pytest.raises(SettingsError, match="group_weights needs the rate of each group"):
        lb.ELBO(samples=2, group_weights={"z1": 2.0}, **settings)


@pytest.mark.parametrize("name", LAYERED)
def test_means_of_samples_show_details_at_their_natural_point(name):
    """The latents of the other layers are those that are drawn in any case."""
    model = MODELS[name]()
    draws = model.sample(6, seed=3)
    model.details = 1
    with seeded(derived_seed(3, "sample"), torch.device("cpu")):
        z = model.prior_given({}).sample((6,))
    del (latents := model.prior_given({}).split(z))["z1"]
    torch.testing.assert_close(model.sample(6, mean=True, seed=3), model.decode(latents))
    assert torch.equal(model.sample(6, seed=3), draws)


# What is refused


def make_layers(**changes):
    parts = {
        "priors": [lb.Gaussian(lb.mlp(2, 6)), lb.StandardNormal(2)],
        "posteriors": [lb.Gaussian(lb.mlp(8, 6)), lb.Gaussian(lb.mlp(3, 4))],
        "likelihood": lb.Bernoulli(lb.mlp(3, 8)),
    }
    return lb.LayeredModel(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"priors": []}, SettingsError, "at least one layer"),
        ({"posteriors": [lb.Point(lb.mlp(8, 3))]}, SettingsError, "2 priors and 1 posteriors"),
        ({"features": [nn.Identity()]}, SettingsError, "2 priors and 1 features"),
        ({"merge": "sum"}, SettingsError, "merge='sum' is unknown"),
        ({"merge": "product"}, SettingsError, "needs features="),
        ({"details": 2}, SettingsError, "details=2 must be less than the number of layers, 2"),
        ({"details": -1}, SettingsError, "details=-1 must be a whole number"),
        ({"likelihood": lb.Bernoulli(lb.mlp(3, 7))}, ShapeError, r"events of shape \(7,\)"),
        ({"posteriors": [nn.Linear(8, 6)] * 2}, UnsupportedError, "posterior of z1 returned"),
        (
            {"priors": [nn.Linear(2, 6), lb.StandardNormal(2)]},
            UnsupportedError,
            "prior of z1 returned",
        ),
        (
            {
                "priors": [lb.Gaussian(lb.mlp((2, 3), 6)), lb.StandardNormal(2)],
                "features": [lb.mlp(8, 5), lb.mlp(5, (5, 2, 2))],
                "posteriors": [lb.Gaussian(lb.mlp(7, 6)), lb.Gaussian(lb.mlp((5, 2, 2), 4))],
                "states": [lb.mlp(3, 3), lb.mlp(2, (2, 3))],
            },
            ShapeError,
            "cannot be concatenated",
        ),
        (
            {
                "features": [lb.mlp(8, 5), lb.mlp(5, 5)],
                "posteriors": [lb.FullRankGaussian(lb.mlp(5, 9)), lb.Gaussian(lb.mlp(5, 4))],
                "merge": "product",
            },
            UnsupportedError,
            "needs diagonal Gaussians, and z1 has the posterior TriangularNormal",
        ),
    ],
)
def test_layers_that_do_not_fit_say_why(changes, error, message):
    with pytest.raises(error, match=message):
        make_layers(**changes).draw(torch.zeros(4, 8))


def test_a_layer_that_is_not_normalised_is_named():
    model = make_layers(
        posteriors=[lb.Point(lb.mlp(8, 3)), lb.Gaussian(lb.mlp(3, 4))],
    )
    assert model.unnormalized_parts() == ("posterior of z1 (Point)",)
    assert lb.ELBO().label(model) == "score"


@pytest.mark.parametrize("examples", [1, 2, 5, 7])
def test_the_check_of_layers_takes_no_noise_of_the_examples(examples):
    torch.manual_seed(0)
    model = MODELS["layered, bottom up"]()
    x = images("layered, bottom up")[:1].expand(examples, *IMAGE)
    checked, again = (lb.log_likelihood(model, x, 3, seed=0).per_example for _ in range(2))
    assert torch.equal(checked, again)
