"""Codes: vector, residual and finite scalar quantisation, and priors over codes."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import nn

import lowerbound as lb
from lowerbound.distributions.codes import embed_codes
from lowerbound.errors import (
    DoubtfulEstimateWarning,
    NonFiniteError,
    SettingsError,
    ShapeError,
    UnsupportedError,
)
from lowerbound.objectives.quantized import _sum_over_groups as sum_over_groups

sys.path.insert(0, str(Path(__file__).parent))
from constructors import IMAGE, MODELS, images
from test_compiling import assert_agreement, make_step

DOUBLE = torch.float64
CODED = [name for name in MODELS if name.startswith("codes")]
coded = pytest.mark.parametrize("name", CODED)


class Encoder(nn.Module):
    """The identity between events of a declared shape."""

    def __init__(self, shape):
        super().__init__()
        self.output_shape = shape

    def forward(self, x):
        return x


@pytest.mark.parametrize("kind", ["vector", "scalar"])
def test_a_log_likelihood_from_one_code_is_doubtful(kind):
    quantized = lb.FiniteScalarQuantized(lb.mlp(3, 4), levels=(3, 3, 3, 3))
    if kind == "vector":
        quantized = lb.VectorQuantized(lb.mlp(3, 4), 5)
    likelihood = lb.Gaussian(lb.mlp(4, 6))
    model = lb.LatentModel(lb.CodePrior(quantized), quantized, likelihood)
    x = torch.randn(6, 3)
    with pytest.warns(DoubtfulEstimateWarning, match="one code, and the estimate covers no other"):
        found = lb.log_likelihood(model, x, samples=50)
    assert found.doubtful.all()
    assert torch.equal(found.per_example, found.terms["elbo"].per_example)
    other = lb.LatentModel(lb.StandardNormal(4), lb.Gaussian(lb.mlp(3, 8)), likelihood)
    difference = lb.paired_difference(lb.evaluate(other, lb.ELBO(), x), found)
    assert not difference.is_certain
    if kind == "scalar":
        gaps = lb.inference_gaps(model, x, steps=2, samples=5)
        assert gaps.log_likelihood.doubtful.all()
        assert gaps.advice.startswith("the gaps are not known")


def quantizer(shape, codes=4, **settings):
    return lb.VectorQuantized(Encoder(shape), codes, **settings).double()


# Gradients


@coded
def test_the_encoder_gets_the_gradient_of_the_quantised_output_bit_for_bit(name):
    model, x = MODELS[name]().double(), images(name).double()
    raw = model.posterior.network(x).detach().requires_grad_()
    q = model.posterior.from_parameters(raw)
    z = q.rsample((3,))
    assert torch.equal(z, embed_codes(q.codes, model.posterior.get_tables(), 3).expand_as(z))
    (at_z,) = torch.autograd.grad(model.likelihood(z).log_prob(x).sum(), z, retain_graph=True)
    (at_raw,) = torch.autograd.grad(model.likelihood(z).log_prob(x).sum(), raw)
    expected = at_z.sum(0)
    if name == "codes on a grid":  # the gradient goes straight through rounding only
        half = torch.tensor([3, 2, 1], dtype=DOUBLE).reshape(3, 1, 1) * 1.001 / 2
        offset = torch.tensor([0.5, 0.0, 0.5], dtype=DOUBLE).reshape(3, 1, 1)
        tangent = (raw + (offset / half).atanh()).tanh()
        width = torch.tensor([2, 1, 1]).reshape(3, 1, 1)
        torch.testing.assert_close(at_raw, expected * half * (1 - tangent.square()) / width)
    else:
        assert torch.equal(at_raw, expected)


def test_the_objective_is_that_of_the_paper():
    torch.manual_seed(0)
    posterior = lb.VectorQuantized(lb.mlp(6, (3, 2)), codes=5, decay=None)
    model = lb.LatentModel(
        lb.CodePrior(posterior), posterior, lb.Gaussian(lb.mlp((3, 2), 12))
    ).double()
    x = torch.randn(7, 6, dtype=DOUBLE)
    e = posterior.network(x)
    nearest = (e[:, None] - posterior.tables[0][None, :, :, None]).square().sum(2).argmin(1)
    t = posterior.tables[0][nearest].movedim(-1, 1)
    z = e + (t - e).detach()
    commitment = (e - t.detach()).square().sum((1, 2))
    codebook = (e.detach() - t).square().sum((1, 2))
    bound = model.likelihood(z[None]).log_prob(x)[0] - 2 * math.log(5)
    expected = bound - 0.3 * commitment - 2.0 * codebook
    draw, objective = model.draw(x), lb.QuantizedELBO(commitment=0.3, codebook=2.0)
    torch.testing.assert_close(objective.bound(draw), bound)
    torch.testing.assert_close(objective.surrogate(draw), expected)
    torch.testing.assert_close(objective.terms(draw)["commitment"], commitment)
    found = torch.autograd.grad(objective(draw).sum(), list(model.parameters()))
    for ours, theirs in zip(
        found, torch.autograd.grad(expected.sum(), list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


# Moving averages


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("sides", [(), (5,), (2, 3)])
def test_a_step_without_decay_is_one_of_lloyd_s(sides):
    assert issubclass(ConvergenceWarning, UserWarning)
    torch.manual_seed(1)
    part = quantizer((3, *sides), codes=4, decay=0.0, revive=0.0).train()
    x = torch.randn(40, 3, *sides, dtype=DOUBLE)
    vectors = x.movedim(1, -1).reshape(-1, 3)
    part.tables.copy_(vectors[:4])
    clusters = KMeans(4, init=vectors[:4].numpy(), n_init=1, max_iter=1, tol=0).fit(vectors)
    part(x)
    centres = torch.from_numpy(clusters.cluster_centers_)
    torch.testing.assert_close(part.tables[0], centres, rtol=0, atol=1e-6)


def test_codes_are_moving_averages_of_their_outputs():
    torch.manual_seed(0)
    part = quantizer((2,), codes=3, decay=0.8, revive=0.0).train()
    before = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 9.0]], dtype=DOUBLE)
    part.tables.copy_(before[None])
    sizes, sums = torch.zeros(3, dtype=DOUBLE), torch.zeros(3, 2, dtype=DOUBLE)
    for _ in range(5):
        x = torch.randn(20, 2, dtype=DOUBLE)
        codes = part(x).codes[:, 0]
        one_hot = nn.functional.one_hot(codes, 3).double()
        sizes = 0.8 * sizes + 0.2 * one_hot.sum(0)
        sums = 0.8 * sums + 0.2 * one_hot.T @ x
    assert (sizes[:2] > 0).all()
    torch.testing.assert_close(part.tables[0, :2], (sums / sizes[:, None])[:2])
    assert sizes[2] == 0
    assert torch.equal(part.tables[0, 2], before[2])  # never used, so it stays


def test_codes_that_are_not_used_are_replaced_by_outputs():
    torch.manual_seed(0)
    part = quantizer((2,), codes=8).train()
    part.tables.fill_(0.0)
    part.tables[0, 1:] += 100.0
    x = torch.randn(50, 2, dtype=DOUBLE)
    part(x)
    distances = (part.tables[0][:, None] - x).square().sum(-1).amin(1)
    assert (distances[1:] == 0).all()
    assert len(part(x).codes.unique()) > 4
    for _ in range(100):
        part(x)
    assert len(part(x).codes.unique()) == 8


def test_each_stage_quantises_what_the_stages_before_left():
    torch.manual_seed(0)
    part = quantizer((3, 2), codes=4, stages=3).eval()
    part.tables.normal_()
    x = torch.randn(6, 3, 2, dtype=DOUBLE)
    q, left = part(x), x
    for stage, table in enumerate(part.tables):
        nearest = (left[:, None] - table[None, :, :, None]).square().sum(2).argmin(1)
        assert torch.equal(q.codes[:, stage], nearest)
        left = left - table[nearest].movedim(-1, 1)
    torch.testing.assert_close(x - q.mean, left)
    torch.testing.assert_close(part.get_tables(), part.tables)


def test_errors_are_summed_over_groups_and_averaged_over_their_draws():
    of_draws, of_examples = torch.rand(3, 5), torch.rand(5)
    torch.testing.assert_close(
        sum_over_groups([of_draws, of_examples]), of_draws.mean(0) + of_examples
    )


def test_each_stage_follows_what_the_stages_before_left():
    torch.manual_seed(0)
    part = quantizer((3,), codes=4, stages=2, decay=0.0, revive=0.0).train()
    part.tables.normal_()
    x, before = torch.randn(60, 3, dtype=DOUBLE), part.tables.clone()
    q, left = part(x), x
    for stage, codes in enumerate(q.codes.unbind(1)):
        for code in codes.unique():
            mean = left[codes == code].mean(0)
            torch.testing.assert_close(part.tables[stage, code], mean)
        left = left - before[stage][codes]


def test_draws_of_codes_have_the_stated_probabilities():
    """At five standard errors of 20,000 draws: one false alarm in 10^5 runs."""
    torch.manual_seed(0)
    part = quantizer((3, 2), codes=4).eval()
    part.tables.normal_()
    prior = lb.CodePrior(part, learned=True).double()
    with torch.no_grad():
        prior.logits.normal_()
        p = prior()
        codes = part.find(p.sample((20_000,)))
    shares = nn.functional.one_hot(codes, 4).double().mean(0)
    expected = p.code_probabilities
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((shares - expected).abs() < 5 * error).all()


def test_evaluations_leave_the_codes_as_they_are():
    model, x = MODELS["codes"](), images("codes")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lb.evaluate(model, lb.QuantizedELBO(), x)
    model.encode(x)
    lb.latent_health(model, x)
    model.eval().draw(x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.posterior.requires_grad_(False)
    model.train().draw(x)
    assert torch.equal(model.posterior.tables, before["posterior.tables"])
    model.posterior.requires_grad_(True)
    model.draw(x)
    assert not torch.equal(model.posterior.tables, before["posterior.tables"])
    assert torch.equal(model.posterior.get_tables(), before["posterior.tables"])


def test_a_refused_step_leaves_the_codes_as_they_were():
    model, x = MODELS["codes"](), images("codes")
    steps = make_step(model, lb.QuantizedELBO(), lb.Examples.of(x))
    steps.run()
    with torch.no_grad():
        next(model.likelihood.parameters()).fill_(math.nan)
    before = {key: value.clone() for key, value in model.named_buffers()}
    with pytest.raises(NonFiniteError):
        steps.run()
    for key, value in model.named_buffers():
        assert torch.equal(value, before[key]), key


@coded
def test_compiled_steps_agree(name, traced, fresh_compiler):
    def make():
        torch.manual_seed(0)
        objective = lb.ELBO() if name == "codes on a grid" else lb.QuantizedELBO()
        return make_step(MODELS[name](), objective, lb.Examples.of(images(name)))

    weights = assert_agreement(make)
    assert "posterior.tables" in weights or name == "codes on a grid"


def test_resuming_and_saving_keep_the_codes(tmp_path):
    x = images("codes", 20)
    settings = {"seed": 3, "progress": False, "batch_size": 10, "validation": x[:5]}
    start = MODELS["codes in stages"]()
    through, resumed = MODELS["codes in stages"](), MODELS["codes in stages"]()
    for model in (through, resumed):
        model.load_state_dict(start.state_dict())
    objective = lb.QuantizedELBO()
    lb.fit(through, objective, x, epochs=4, directory=tmp_path / "a", **settings)
    for epochs, resume in ((2, False), (4, True)):
        lb.fit(
            resumed,
            objective,
            x,
            epochs=epochs,
            directory=tmp_path / "b",
            resume=resume,
            **settings,
        )
    for key, value in through.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
        assert not torch.equal(value, start.state_dict()[key]), key
    again = lb.load(lb.save(through, tmp_path / "model"))
    assert again.prior.quantizer is again.posterior
    assert torch.equal(again.posterior.tables, through.posterior.tables)
    assert torch.equal(again.sample(3, seed=0), through.sample(3, seed=0))
    scores = [lb.evaluate(model, objective, x).per_example for model in (through, again)]
    assert torch.equal(*scores)


# Finite scalar quantisation


@pytest.mark.parametrize("levels", [(2,), (3, 2), (8, 5, 5, 5), (7, 6)])
def test_every_point_of_the_grid_is_reached_and_numbered(levels):
    part = lb.FiniteScalarQuantized(Encoder((len(levels), 1)), levels).double()
    steps = torch.linspace(-8, 8, 400, dtype=DOUBLE)
    raw = steps[:, None, None].expand(-1, len(levels), 1)
    q = part(raw)
    for channel, level in enumerate(levels):
        values = q.loc[:, channel].unique()
        expected = (torch.arange(level, dtype=DOUBLE) - level // 2) / (level // 2)
        torch.testing.assert_close(values, expected)
    assert (part(torch.zeros(1, len(levels), 1, dtype=DOUBLE)).loc == 0).all()
    tables = part.get_tables()
    assert tables.shape == (1, math.prod(levels), len(levels))
    everything = torch.arange(math.prod(levels)).reshape(-1, 1, 1)
    points = embed_codes(everything, tables, 2)
    assert torch.equal(part.find(points), everything)
    assert torch.equal(embed_codes(q.codes, tables, 2), q.loc.detach())


# Bounds and priors


@coded
@torch.no_grad()
def test_the_bound_is_below_the_sum_over_all_codes(name):
    """With 2 units, so that all codes can be enumerated."""
    torch.manual_seed(0)
    parts = {
        "codes": lambda net: lb.VectorQuantized(net, codes=5),
        "codes in stages": lambda net: lb.VectorQuantized(net, codes=3, stages=2),
        "codes on a grid": lambda net: lb.FiniteScalarQuantized(net, levels=(4, 3)),
    }
    posterior = parts[name](lb.mlp(6, (2, 2)))
    if name != "codes on a grid":
        posterior.tables.normal_()
    prior = lb.CodePrior(posterior, learned=True)
    nn.init.normal_(prior.logits)
    model = lb.LatentModel(prior, posterior, lb.Gaussian(lb.mlp((2, 2), 12))).double().eval()
    x = torch.randn(5, 6, dtype=DOUBLE)
    units = 2 * posterior.units
    everything = torch.tensor(list(itertools.product(range(posterior.count), repeat=units)))
    everything = everything.reshape(-1, posterior.units, 2)
    z = embed_codes(everything, posterior.get_tables(), 2)
    p = model.prior()
    log_prior = p.log_prob_of_codes(everything)
    assert float(log_prior.exp().sum()) == pytest.approx(1)
    torch.testing.assert_close(p.log_prob(z), log_prior)
    joint = model.likelihood(z[:, None].expand(-1, 5, -1, -1)).log_prob(x) + log_prior[:, None]
    evidence = joint.logsumexp(0)
    bound = lb.evaluate(model, lb.QuantizedELBO() if posterior.units > 1 else lb.ELBO(), x)
    assert (bound.per_example < evidence).all()
    draw = model.draw(x, 3)
    torch.testing.assert_close(draw.log_w.mean(0), bound.per_example)
    torch.testing.assert_close(draw.rate, draw.sampled_rate)
    mean = (log_prior.exp()[:, None, None] * z).sum(0)
    torch.testing.assert_close(p.mean, mean)
    variance = (log_prior.exp()[:, None, None] * (z - mean).square()).sum(0)
    torch.testing.assert_close(p.variance, variance)


@torch.no_grad()
def test_the_codes_of_a_sum_are_found_again(monkeypatch):
    """Quantising the sum once more would give other codes for some vectors."""
    torch.manual_seed(0)
    part = quantizer((3, 2), codes=8, stages=2).eval()
    part.tables.normal_()
    q = part(torch.randn(200, 3, 2, dtype=DOUBLE))
    assert torch.equal(part.find(q.loc), q.codes)
    monkeypatch.setattr("lowerbound.distributions.codes._MOST_DISTANCES", 64 * 8 * 7)
    assert torch.equal(part.find(q.loc), q.codes)
    assert not torch.equal(part(q.loc).codes, q.codes)


@pytest.mark.parametrize("kind", ["independent", "autoregressive"])
@torch.no_grad()
def test_a_learned_prior_scores_the_codes_that_were_chosen(kind):
    torch.manual_seed(0)
    posterior = lb.VectorQuantized(lb.mlp(6, (2, 2)), codes=5, stages=3)
    posterior.tables.normal_()
    prior = lb.AutoregressivePrior(posterior, lb.recurrent(1, 8, (6, 5)))
    if kind == "independent":
        prior = lb.CodePrior(posterior, learned=True)
        nn.init.normal_(prior.logits)
    model = lb.LatentModel(prior, posterior, lb.Gaussian(lb.mlp((2, 2), 12))).double().eval()
    draw = model.draw(torch.randn(50, 6, dtype=DOUBLE), 2)
    expected = prior().log_prob_of_codes(draw.q.codes)
    torch.testing.assert_close(draw.log_prior, expected.expand(2, 50))
    torch.testing.assert_close(draw.sampled_rate, draw.rate)


def test_a_prior_with_the_frequencies_of_the_codes_has_their_entropy_as_rate():
    model, x = MODELS["codes"](), images("codes", 60)
    model.posterior.tables.normal_()
    uniform = lb.evaluate(model, lb.ELBO(), x)
    assert uniform.terms["rate"].mean == pytest.approx(4 * math.log(7), rel=1e-6)
    codes = model.posterior.eval()(x).codes
    frequencies = nn.functional.one_hot(codes, 7).double().mean(0)
    model.prior = lb.CodePrior(model.posterior, learned=True)
    model.prior.start_from_latents(model.encode(x))
    counts = nn.functional.one_hot(codes, 7).double().sum(0)
    everywhere = (counts.sum((0, 1, 2)) + 1) / (counts.sum() + 7)
    expected = (counts + everywhere) / 61
    torch.testing.assert_close(
        model.prior().code_probabilities.detach().double(), expected, rtol=1e-5, atol=1e-6
    )
    with torch.no_grad():
        model.prior.logits.copy_(frequencies.log().clamp(min=-30))
    entropy = torch.special.entr(frequencies).sum().item()
    learned = lb.evaluate(model, lb.ELBO(), x)
    assert learned.terms["rate"].mean == pytest.approx(entropy, rel=1e-5)
    assert learned.mean > uniform.mean


@torch.no_grad()
def test_the_probabilities_of_all_sequences_of_codes_sum_to_one():
    """And draws have these probabilities: each of 27 at 5 standard errors."""
    torch.manual_seed(0)
    posterior = quantizer((2, 3), codes=3)
    posterior.tables.normal_()
    p = lb.AutoregressivePrior(posterior, lb.recurrent(1, 8, (3, 3))).double()()
    everything = torch.tensor(list(itertools.product(range(3), repeat=3)))
    z = embed_codes(everything[:, None], p.tables, 2)
    chances = p.log_prob(z).exp()
    assert chances.sum().item() == pytest.approx(1)
    codes = p.find(p.sample((4000,)))[:, 0]
    numbers = (codes * torch.tensor([9, 3, 1])).sum(1)
    found = torch.bincount(numbers, minlength=27) / 4000
    assert ((found - chances).abs() < 5 * (chances * (1 - chances) / 4000).sqrt()).all()


def test_a_prior_over_sequences_learns_from_the_codes_of_a_model(tmp_path):
    torch.manual_seed(0)
    posterior = lb.VectorQuantized(lb.mlp(6, (2, 4)), codes=5)
    posterior.tables.normal_()
    model = lb.LatentModel(lb.CodePrior(posterior), posterior, lb.Gaussian(lb.mlp((2, 4), 12)))
    x = torch.randn(1, 6) + 0.1 * torch.randn(60, 6)  # almost the same codes for all
    prior = lb.AutoregressivePrior(posterior, lb.recurrent(1, 8, (4, 5)))
    better = lb.fit_prior(model, prior, x, epochs=20, learning_rate=0.05, progress=False)
    before, after = (lb.evaluate(one, lb.ELBO(), x) for one in (model, better))
    assert after.terms["rate"].mean < 0.6 * before.terms["rate"].mean
    assert after.terms["distortion"].mean == pytest.approx(before.terms["distortion"].mean)
    for draw in (better.eval().draw(x), better.train().draw(x)):  # the second moves the codes
        torch.testing.assert_close(draw.rate, draw.sampled_rate)
    better.eval()
    again = lb.load(lb.save(better, tmp_path / "model"))
    assert again.prior.quantizer is again.posterior
    assert torch.equal(again.sample(3, seed=0), better.sample(3, seed=0))


def test_health_reports_the_use_of_codes():
    model, x = MODELS["codes"](), images("codes", 60)
    model.posterior.tables.normal_()
    codes = model.posterior.eval()(x).codes.flatten(1)
    health = lb.latent_health(model, x)
    use = health.groups["z"].codes
    assert health.groups["z"].units == 4
    for unit in range(4):
        frequencies = nn.functional.one_hot(codes[:, unit], 7).double().mean(0)
        assert int(use.usage[unit]) == len(codes[:, unit].unique())
        expected = torch.special.entr(frequencies).sum().exp().item()
        assert use.perplexity[unit].item() == pytest.approx(expected)
    assert "of 7 used, perplexity" in str(health)
    assert health.rate == pytest.approx(4 * math.log(7), rel=1e-5)


def test_codes_may_depend_on_fields():
    x, label = torch.rand(12, 6), torch.arange(12) % 3
    posterior = lb.Given(lb.VectorQuantized(lb.mlp(9, 4), codes=5), "label", categories=3)
    model = lb.LatentModel(
        lb.CodePrior(posterior),
        posterior,
        lb.Given(lb.Gaussian(lb.mlp(7, 12)), "label", categories=3),
    )
    data = lb.Examples(x, labels=label)
    before = posterior.part.tables.clone()
    lb.fit(model, lb.QuantizedELBO(), data, epochs=1, progress=False)
    assert not torch.equal(posterior.part.tables, before)
    assert model.sample(4, label=1).shape == (4, 6)


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lb.VectorQuantized(nn.Linear(4, 2)), ShapeError, "declares its output_shape"),
        (lambda: lb.VectorQuantized(lb.mlp(4, 2), codes=0), SettingsError, "codes"),
        (lambda: lb.VectorQuantized(lb.mlp(4, 2), decay=1.0), SettingsError, "decay=1.0"),
        (lambda: lb.VectorQuantized(lb.mlp(4, 2), revive=-1.0), SettingsError, "revive=-1.0"),
        (lambda: lb.FiniteScalarQuantized(lb.mlp(4, 2), (3, 1)), SettingsError, "at least 2"),
        (lambda: lb.FiniteScalarQuantized(lb.mlp(4, 2), (3,)), ShapeError, "1 levels need"),
        (
            lambda: lb.FiniteScalarQuantized(lb.mlp(4, 12), (5,) * 12),
            SettingsError,
            "make 244,140,625 codes, and at most 1,048,576 are possible",
        ),
        (lambda: lb.CodePrior(lb.Gaussian(lb.mlp(4, 2))), SettingsError, "does not choose codes"),
        (
            lambda: lb.AutoregressivePrior(
                lb.VectorQuantized(lb.mlp(4, 2), codes=5), lb.recurrent(1, 4, (2, 5))
            ),
            ShapeError,
            r"1 codes of 5 values, and the network predicts 2 codes of 5; "
            r"give the network the outputs \(1, 5\)",
        ),
        (
            lambda: MODELS["codes"]().prior.start_from_latents(torch.zeros(1, 3, 2, 2)),
            SettingsError,
            "learned=True",
        ),
        (lambda: lb.QuantizedELBO(commitment=-1.0), SettingsError, "commitment"),
        (
            lambda: lb.QuantizedELBO()(MODELS["binary"]().draw(images("binary"))),
            UnsupportedError,
            "posterior with a learned codebook",
        ),
        (
            lambda: lb.LatentModel(
                lb.StandardNormal(2),
                lb.VectorQuantized(lb.mlp(IMAGE, 2)),
                lb.Bernoulli(lb.mlp(2, IMAGE)),
            ).draw(images("binary")),
            UnsupportedError,
            "continuous and the posterior's CodePoint is discrete",
        ),
    ],
)
def test_invalid_codes_say_why(make, error, message):
    with pytest.raises(error, match=message):
        make()
