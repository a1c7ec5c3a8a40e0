"""Flows by name and the VampPrior: their densities, their files, and training with them."""

import copy
import math
import subprocess
import sys

import pytest
import torch
import zuko
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import lowerbound as lb
from lowerbound.conditionals.flow import find_flow_classes
from lowerbound.describe import describe, find_foreign_parts
from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    LowRankNormal,
    Mixture,
    TriangularNormal,
)
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.runs.saving import find_shared_weights
from lowerbound.runtime import noise

IMAGE = (1, 8, 8)
OPTIONS = {
    "nice": {"randmask": True},
    "realnvp": {"randmask": True, "transforms": 2},
    "maf": {"randperm": True, "hidden_features": (8, 8), "activation": nn.ELU},
    "nsf": {"bins": 4, "randperm": True, "passes": 2},
    "naf": {"transforms": 2, "network": {"hidden_features": (8,)}},
    "unaf": {"transforms": 2, "network": {"hidden_features": (8,)}},
}


def binary_images(count: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, *IMAGE, generator=generator) < 0.4).float()


def perturb(module: nn.Module) -> nn.Module:
    """Away from where parameters start, so that all matter."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


# Flows


@pytest.mark.parametrize("context", [None, (2, 3)])
@pytest.mark.parametrize("name", find_flow_classes())
def test_every_flow_comes_back_to_the_same_bits(name, context, tmp_path):
    torch.manual_seed(1)
    flow = perturb(lb.Flow(name, 3, context, **OPTIONS.get(name, {})))
    again = lb.load(lb.save(flow, tmp_path / "flow"))
    assert describe(again) == describe(flow)
    given = () if context is None else (torch.rand(5, *context),)
    value = 0.5 * torch.rand(5, 3)
    with torch.no_grad():
        densities = [one(*given).log_prob(value) for one in (flow, again)]
    assert torch.isfinite(densities[0]).all()
    assert torch.equal(*densities)


@pytest.mark.parametrize("name", find_flow_classes())
def test_a_flow_has_the_density_of_zuko_s(name):
    torch.manual_seed(1)
    options = OPTIONS.get(name, {})
    flow = lb.Flow(name.upper(), 3, (2, 3), **options)
    plain = type(flow.flow)(3, 6, **options)
    plain.load_state_dict(flow.flow.state_dict())
    x, value = torch.rand(5, 2, 3), 0.5 * torch.rand(5, 3)
    with torch.no_grad():
        assert torch.equal(flow(x).log_prob(value), plain(x.flatten(1)).log_prob(value))


@pytest.mark.parametrize("name", find_flow_classes())
def test_the_inverse_and_the_log_determinant_of_every_flow_are_exact(name, monkeypatch):
    """Both to 1e-10: the inverse gives back the point, and autograd's Jacobian the determinant.

    Where an inverse is a bisection or an integral, its tolerance is lowered for the comparison.
    """
    bisection = zuko.transforms.bisection
    monkeypatch.setattr(zuko.transforms, "bisection", lambda n, **given: bisection(n=60, **given))
    smooth = {"atol": 1e-11, "rtol": 1e-11, "hidden_features": (8,), "activation": nn.Tanh}
    options = {**OPTIONS, "cnf": smooth}.get(name, {})
    torch.manual_seed(1)
    flow = perturb(lb.Flow(name, 3, 2, **options).double())
    q = flow(torch.randn(2, dtype=torch.float64))
    for x in torch.rand(3, 3, dtype=torch.float64) - 0.5:
        with torch.no_grad():
            y = q.transform(x)
            torch.testing.assert_close(q.transform.inv(y), x, rtol=0, atol=1e-10)
        jacobian = torch.autograd.functional.jacobian(q.transform, x)
        expected = q.base.log_prob(y) + jacobian.slogdet().logabsdet
        torch.testing.assert_close(q.log_prob(x), expected, rtol=0, atol=1e-10)


def test_a_flow_keeps_leading_dimensions_and_converts_what_it_is_given():
    flow = lb.Flow("maf", 3, context=IMAGE)
    assert flow(torch.rand(2, 4, *IMAGE)).batch_shape == (2, 4)
    assert flow.double()(torch.rand(2, *IMAGE)).sample().dtype == torch.float64


def test_a_flow_stays_out_of_half_precision():
    vae = lb.LatentModel(
        lb.Flow("nsf", 2), lb.Gaussian(lb.mlp(IMAGE, 4)), lb.Bernoulli(lb.mlp(2, IMAGE))
    ).bfloat16()
    assert {parameter.dtype for parameter in vae.prior.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in vae.posterior.parameters()} == {torch.bfloat16}
    assert math.isfinite(lb.evaluate(vae, lb.ELBO(), binary_images(5)).mean)


def test_a_model_of_two_precisions_comes_back_in_both(tmp_path):
    vae = lb.LatentModel(
        lb.Flow("nsf", 2), lb.Gaussian(lb.mlp(IMAGE, 4)), lb.Bernoulli(lb.mlp(2, IMAGE))
    ).bfloat16()
    again, x = lb.load(lb.save(vae, tmp_path / "vae")), binary_images(5)
    for name, value in vae.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype, name
    bounds = [lb.evaluate(one, lb.ELBO(), x).per_example for one in (vae, again)]
    assert torch.equal(*bounds)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lb.Flow("nfs", 2), SettingsError, "'nfs' is unknown; did you mean 'nsf'"),
        (lambda: lb.Flow("glow", 2), SettingsError, "'glow' is unknown; choose one of bpf, cnf"),
        (lambda: lb.Flow("LazyDistribution", 2), SettingsError, "is unknown"),
        (lambda: lb.Flow("nsf", 0), SettingsError, "Flow: features"),
        (lambda: lb.Flow("nsf", 2, context=(0, 3)), SettingsError, "is not a size"),
        (
            lambda: lb.Flow("nsf", 2, knots=3),
            SettingsError,
            r"zuko's NSF refuses .* knots=3: .*unexpected keyword argument 'knots'",
        ),
        (lambda: lb.Flow("maf", 3, adjacency=[[1]]), SettingsError, "should have 3 rows"),
        (lb.Flow("maf", 2, 4), UnsupportedError, "nothing is given"),
        (lambda: lb.Flow("maf", 2, 4)(torch.zeros(3, 5)), ShapeError, r"events of shape \(4,\)"),
    ],
)
def test_invalid_flows_say_why(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_option_that_a_file_cannot_name_needs_a_constructor(tmp_path):
    def make():
        return lb.Flow("maf", 2, activation=lambda: nn.ELU(0.5))

    flow = make()
    [(path, _)] = find_foreign_parts(describe(flow))
    assert path == "model.activation"
    again = lb.load(lb.save(flow, tmp_path / "flow"), make)
    assert torch.equal(again().log_prob(torch.ones(2)), flow().log_prob(torch.ones(2)))


def test_a_flow_leaves_torch_s_checks_as_they_were():
    """zuko switches them off where it is first imported, so this is a process of its own."""
    code = (
        "import torch; from torch.distributions import Distribution; import lowerbound as lb; "
        "Distribution.set_default_validate_args(True); flow = lb.Flow('nsf', 2)(); "
        "assert Distribution._validate_args is True; "
        "assert flow.log_prob(torch.full((2,), torch.nan)).isnan().item()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_flow_is_a_posterior_of_a_log_joint():
    def log_joint(x):
        return Normal(1.0, 0.5).log_prob(x).sum(-1)

    model = lb.LogJoint(log_joint, lambda size: lb.Flow("maf", size), {"x": 2})
    lb.fit(model, lb.ELBO(), steps=2, progress=False)
    assert math.isfinite(lb.evaluate(model, lb.ELBO()).mean)


# Mixtures


def gaussians(*batch: int) -> DiagonalNormal:
    return DiagonalNormal(torch.randn(*batch, 3).double(), torch.randn(*batch, 3).double())


def test_a_mixture_of_gaussians_agrees_with_torch_s():
    components, logits = gaussians(4, 5), torch.randn(4, 5).double()
    theirs = MixtureSameFamily(
        Categorical(logits=logits), Independent(Normal(components.loc, components.stddev), 1)
    )
    ours, value = Mixture(components, logits), torch.randn(7, 4, 3).double()
    assert (ours.batch_shape, ours.event_shape) == ((4,), (3,))
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.variance, theirs.variance, rtol=1e-12, atol=1e-12)
    first = ours.log_prob(value[0, 0])
    torch.testing.assert_close(first, theirs.log_prob(value[0, 0]), rtol=0, atol=1e-12)


KINDS = {
    "diagonal": gaussians,
    "torch's diagonal": lambda *batch: Independent(
        Normal(torch.randn(*batch, 3).double(), torch.rand(*batch, 3).double() + 0.5), 1
    ),
    "triangular": lambda *batch: TriangularNormal(
        torch.randn(*batch, 3).double(), torch.randn(*batch, 3, 3).double().tril().exp().tril()
    ),
    "low rank": lambda *batch: LowRankNormal(
        torch.randn(*batch, 3).double(),
        torch.randn(*batch, 3, 2).double(),
        torch.randn(*batch, 3).double(),
    ),
    "binary": lambda *batch: FactorialBernoulli(torch.randn(*batch, 3).double()),
    "foreign": lambda *batch: torch.distributions.MultivariateNormal(
        torch.randn(*batch, 3).double(), torch.eye(3).double()
    ),
}


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_a_mixture_have_its_mean_and_variance(kind, batch):
    """Up to 12 entries at 5 standard errors: less than one false alarm in 10^4 runs."""
    p = Mixture(KINDS[kind](*batch, 4), torch.randn(4).double())
    draws = p.sample((40_000,))
    assert draws.shape == (40_000, *batch, 3)
    assert (((draws.mean(0) - p.mean) / (p.variance / 40_000).sqrt()).abs() < 5).all()
    fourth = ((draws - p.mean) ** 4).mean(0)
    error = ((fourth - p.variance**2) / 40_000).sqrt()
    assert (((draws - p.mean) ** 2).mean(0) - p.variance).abs().le(5 * error + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_expands(kind):
    p = Mixture(KINDS[kind](4), torch.randn(4).double())
    wide = p.expand((2, 5))
    value = p.sample((3, 2, 5))
    assert wide.batch_shape == (2, 5)
    assert wide.sample((3,)).shape == (3, 2, 5, 3)
    torch.testing.assert_close(wide.log_prob(value), p.log_prob(value))


@pytest.mark.parametrize("kind", ["diagonal", "triangular", "binary"])
def test_draws_of_a_mixture_belong_to_their_examples(kind):
    p = Mixture(KINDS[kind](4), torch.zeros(4).double())
    with noise.per_example(0, torch.arange(6)):
        together = p.expand((6,)).sample((3,))
    with noise.per_example(0, torch.tensor([4])):
        alone = p.expand((1,)).sample((3,))
    assert torch.equal(together[:, 4], alone[:, 0])


def test_a_component_without_weight_is_never_drawn():
    p = Mixture(gaussians(3), torch.tensor([-math.inf, 0.0, -math.inf]).double())
    assert set(p._choose_components(torch.Size((10_000,))).tolist()) == {1}
    torch.testing.assert_close(p.mean, p.components.mean[1])


# The VampPrior


def vamp_model(posterior=None) -> lb.LatentModel:
    encoder = posterior or lb.Gaussian(lb.mlp(IMAGE, 16, 4))
    prior = lb.VampPrior(encoder, binary_images(7))
    return lb.LatentModel(prior, encoder, lb.Bernoulli(lb.mlp(2, 16, IMAGE)))


def test_the_density_is_the_average_of_the_posteriors():
    prior = vamp_model().double().prior
    z = torch.randn(9, 2).double()
    q = prior.posterior(prior.pseudo_inputs)
    expected = torch.stack([q.log_prob(one) for one in z]).exp().mean(1).log()
    torch.testing.assert_close(prior().log_prob(z), expected, rtol=0, atol=1e-12)


def test_pseudo_inputs_start_from_data_and_are_trained():
    digits = lb.load_data("digits", pixels="binarize")
    prior = lb.VampPrior(lb.Gaussian(lb.mlp(IMAGE, 4)), digits.train.spread(5))
    grey = digits.train.spread(5).prepare("as-is").batch(torch.arange(5))
    assert torch.equal(prior.pseudo_inputs, grey)
    prior().log_prob(torch.zeros(2)).backward()
    assert prior.pseudo_inputs.grad.abs().sum() > 0
    pixels = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert lb.VampPrior(lb.Gaussian(lb.mlp(2, 2)), pixels).pseudo_inputs.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    "posterior",
    [
        lambda: lb.Gaussian(lb.mlp(IMAGE, 16, 4)),
        lambda: lb.Gaussian(nn.Sequential(nn.Flatten(), nn.Linear(64, 4))),
        lambda: lb.Flow("maf", 2, context=IMAGE, transforms=2),
    ],
)
def test_the_encoder_is_shared_after_loading_and_the_bound_the_same(posterior, tmp_path):
    model, x = vamp_model(posterior()), binary_images(20)
    lb.fit(model, lb.ELBO(), x, epochs=1, progress=False)
    again = lb.load(lb.save(model, tmp_path / "vae"))
    assert again.prior.posterior is again.posterior
    assert describe(again)["posterior"] == {"shared": ["prior", "posterior"]}
    assert len(list(again.parameters())) == len(list(model.parameters()))
    bounds = [lb.evaluate(one, lb.ELBO(samples=3), x).per_example for one in (model, again)]
    assert torch.equal(*bounds)
    assert torch.equal(model.sample(3, seed=0), again.sample(3, seed=0))


def test_an_encoder_that_the_prior_does_not_register_is_shared_after_loading(tmp_path):
    """Then it stands once in the state dictionary, and a reference in the description alone."""

    @lb.describable
    class HiddenVamp(lb.Conditional):
        def __init__(self, posterior, pseudo_inputs):
            super().__init__()
            self.hidden = [posterior]
            self.pseudo_inputs = nn.Parameter(pseudo_inputs)

        @property
        def posterior(self):
            return self.hidden[0]

        def forward(self, *given):
            return Mixture(self.posterior(self.pseudo_inputs), torch.zeros(7))

    encoder = lb.Gaussian(lb.mlp(IMAGE, 16, 4))
    model = lb.LatentModel(
        HiddenVamp(encoder, binary_images(7)), encoder, lb.Bernoulli(lb.mlp(2, IMAGE))
    )
    path = lb.save(model, tmp_path / "vae")
    again, x = lb.load(path), binary_images(20)
    assert again.prior.posterior is again.posterior
    bounds = [lb.evaluate(one, lb.ELBO(samples=3), x).per_example for one in (model, again)]
    assert torch.equal(*bounds)


def test_training_counts_shared_parameters_once_and_resumes_exactly(tmp_path):
    x = binary_images()
    settings = {"seed": 3, "progress": False, "validation": x[:10], "ema": 0.9, "batch_size": 20}
    start = vamp_model()
    through, half, resumed = (copy.deepcopy(start) for _ in range(3))
    assert through.prior.posterior is through.posterior
    lb.fit(through, lb.ELBO(), x, epochs=4, directory=tmp_path / "a", **settings)
    lb.fit(half, lb.ELBO(), x, epochs=2, directory=tmp_path / "b", **settings)
    lb.fit(resumed, lb.ELBO(), x, epochs=4, directory=tmp_path / "b", resume=True, **settings)
    for name, value in through.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert not torch.equal(value, start.state_dict()[name]), name
    assert find_shared_weights(start)
    loaded = lb.load(tmp_path / "b")
    assert loaded.prior.posterior is loaded.posterior
    assert torch.equal(
        lb.evaluate(loaded, lb.ELBO(), x).per_example,
        lb.evaluate(resumed, lb.ELBO(), x).per_example,
    )


def test_the_optimiser_has_each_shared_parameter_once():
    x, model, seen = binary_images(10), vamp_model(), []

    class Watch(lb.Observer):
        def on_start(self, loop):
            seen.extend(group["params"] for group in loop.optimizer.param_groups)

    lb.fit(model, lb.ELBO(), x, steps=1, progress=False, observers=[Watch()])
    optimised = [id(parameter) for group in seen for parameter in group]
    assert sorted(optimised) == sorted(set(map(id, model.parameters())))


def test_evaluations_work_with_a_vamp_prior():
    model, x = vamp_model(), binary_images(6)
    likelihood = lb.log_likelihood(model, x, samples=50)
    assert likelihood.mean >= lb.evaluate(model, lb.ELBO(samples=50), x).mean - 1.0
    annealed = lb.annealed_log_likelihood(model, x, distributions=50, chains=4, leapfrog_steps=2)
    assert annealed.mean == pytest.approx(likelihood.mean, abs=3.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lb.VampPrior(nn.Linear(4, 2), torch.rand(3, 4)), UnsupportedError, "a Tensor"),
        (
            lb.VampPrior(lb.Gaussian(lb.constant(4)), torch.rand(3, 4)),
            ShapeError,
            r"batch shape \(\) for 3 pseudo-inputs",
        ),
        (
            lambda: lb.VampPrior(lb.Gaussian(lb.mlp(4, 2)), torch.full((3, 4), torch.nan)),
            lb.errors.DataError,
            "pseudo_inputs: row 0",
        ),
        (
            lambda: lb.VampPrior(
                type("Needy", (nn.Module,), {"needs": ("a",)})(), torch.rand(3, 4)
            ),
            SettingsError,
            "the posterior needs a",
        ),
    ],
)
def test_invalid_vamp_priors_say_why(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_zuko_itself_still_serves():
    assert isinstance(lb.Flow("nsf", 2).flow, zuko.flows.NSF)
