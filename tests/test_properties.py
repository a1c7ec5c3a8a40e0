"""What holds for every network, conditional, objective and model."""

import copy
import functools
import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import pytest
import torch
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.utils import run_and_get_cpp_code
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.describe import build, describe
from lowerbound.errors import DataError, SettingsError, ShapeError, UnsupportedError
from lowerbound.networks.dropout import Dropout

sys.path.insert(0, str(Path(__file__).parent))
from constructors import (
    CONDITIONALS,
    IMAGE,
    MODELS,
    NETWORKS,
    OBJECTIVES,
    OF_CODES,
    REASONS,
    UNCONDITIONAL,
    WITHOUT_MOMENTS,
    WITHOUT_NOISE,
    images,
)

network = pytest.mark.parametrize("name", NETWORKS)
conditional = pytest.mark.parametrize("name", CONDITIONALS)
model = pytest.mark.parametrize("name", MODELS)
objective = pytest.mark.parametrize("name", OBJECTIVES)


# Networks


@network
def test_networks_take_any_leading_dimensions(name):
    make, inputs, outputs = NETWORKS[name]
    net = make().double().eval()
    x = torch.rand(3, 5, *inputs, dtype=torch.float64)
    y = net(x)
    assert net.input_shape == inputs
    assert net.output_shape == outputs
    assert y.shape == (3, 5, *outputs)
    torch.testing.assert_close(y[1, 2], net(x[1, 2][None])[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(y[2], net(x[2]), rtol=0, atol=1e-12)


@network
def test_networks_reach_every_parameter_and_input(name):
    make, inputs, _ = NETWORKS[name]
    net = make().double()
    x = torch.randn(6, *inputs, dtype=torch.float64, requires_grad=True)
    if name in OF_CODES:
        x = torch.randint(OF_CODES[name], (6, *inputs))
    net(x).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in net.parameters()
    )
    assert name in OF_CODES or x.grad.abs().sum() > 0


@network
def test_networks_refuse_other_shapes_by_name(name):
    make, inputs, _ = NETWORKS[name]
    with pytest.raises(ShapeError, match=r"takes events of shape .* but the input has shape"):
        make()(torch.zeros(4, *inputs[:-1], inputs[-1] + 1))


@network
def test_networks_are_rebuilt_from_their_description(name):
    net = NETWORKS[name][0]()
    description = describe(net)
    again = build(description)
    assert describe(again) == description
    again.load_state_dict(net.state_dict())


@pytest.mark.parametrize("residual", [False, 2])
def test_dropout_keeps_the_expectation_and_only_acts_in_training(residual):
    def make(dropout):
        torch.manual_seed(0)
        return lb.mlp(3, 64, 2, activation="silu", residual=residual, dropout=dropout).double()

    net, without = make(0.4), make(0.0)
    x = torch.randn(1, 3, dtype=torch.float64).expand(20_000, 3)
    exact = without(x[:1])
    torch.testing.assert_close(net.eval()(x[:1]), exact, rtol=0, atol=0)
    if residual:
        return  # its second block is not linear in what the first one drops
    drawn = net.train()(x)
    error = drawn.std(0) / len(x) ** 0.5
    assert (error > 0).all()
    assert ((drawn.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_of_dropout_have_its_share_and_are_independent(share, dtype):
    torch.manual_seed(0)
    dropped = Dropout(share)(torch.ones(301, 333, dtype=dtype))  # not a multiple of four
    assert dropped.dtype == dtype
    zero, kept = sorted(dropped.unique().tolist())
    assert zero == 0
    assert kept == pytest.approx(1 / (1 - share), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)
    is_zero = (dropped == 0).double().flatten()
    error = (share * (1 - share) / len(is_zero)) ** 0.5
    assert abs(is_zero.mean() - share) < 4 * error
    for lag in (1, 2, 3, 4, 333):  # neighbours share a random number of 64 bits
        both = (is_zero[lag:] * is_zero[:-lag]).mean()
        assert abs(both - share**2) < 5 * share / len(is_zero) ** 0.5


def test_dropout_with_a_tiny_share_keeps_all_values():
    torch.testing.assert_close(Dropout(1e-6)(torch.ones(1000)), torch.ones(1000), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_dropout_draws_the_same_masks_in_vectorised_loops():
    x, drop = torch.randn(64, 33), Dropout(0.5)

    def activate(x):
        return drop(drop(torch.nn.functional.silu(x)))

    torch.manual_seed(0)
    expected = activate(x)
    with torch._inductor.config.patch(fallback_random=True):
        torch.manual_seed(0)
        found, code = run_and_get_cpp_code(torch.compile(activate), x)
    torch.testing.assert_close(found, expected)
    assert 0.7 < (expected == 0).float().mean() < 0.8  # each call has a mask of its own
    assert "is_at_least" in code
    if not pick_vec_isa():
        pytest.skip("torch's compiler knows no vector instructions of this processor")
    assert "std::exp" not in code


def test_dropout_can_be_mapped_over_a_batch():
    x = torch.ones(50, 40)
    drawn = torch.vmap(Dropout(0.5), randomness="different")(x)
    assert drawn.unique().tolist() == [0, 2]
    assert (drawn[0] != drawn[1]).any()


def test_dropout_leaves_the_path_of_residual_blocks_whole():
    torch.manual_seed(0)
    net = lb.mlp(3, 8, 2, residual=True, dropout=1 - 1e-9).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    first, block, last = net.layers
    torch.testing.assert_close(net(x), last(first(x) + block.branch[-1].bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_dropout_must_be_a_share(share):
    with pytest.raises(SettingsError, match=r"dropout=.* must be a share from 0 to below 1"):
        lb.mlp(3, 8, 2, dropout=share)


def test_conv_brings_every_size_back():
    for side in range(4, 20):
        shape = (1, side, 23 - side)
        for upsampling in ("transposed", "resize"):
            decoder = lb.conv(2, 4, 4, shape, upsampling=upsampling)
            assert decoder(torch.zeros(1, 2)).shape == (1, *shape)
        assert lb.conv(shape, 4, 4, 2)(torch.zeros(1, *shape)).shape == (1, 2)


def test_a_gate_halves_the_layer_before_it():
    net = lb.mlp(3, 4, 2, activation="gated").double()
    x = torch.randn(5, 3, dtype=torch.float64)
    first, _, last = net.layers
    values, gates = (x @ first.weight.T + first.bias).split(4, 1)
    expected = (values / (1 + (-gates).exp())) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), expected)


def test_a_residual_block_adds_its_branch():
    net = lb.mlp(3, 4, 4, 2, activation="tanh", residual=True, norm="layer").double()
    x = torch.randn(5, 3, dtype=torch.float64)
    first, block, again, norm, last = net.layers
    h = first(x)
    for each in (block, again):
        layer_norm, expand, _, contract = each.branch
        centred = h - h.mean(1, keepdim=True)
        normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(normal, layer_norm(h))
        h = h + contract(expand(normal).tanh())
    torch.testing.assert_close(net(x), last(norm(h)))


def _make_constant_decoder(upsampling):
    """A decoder whose first feature map is constant, so that only upsampling can make patterns."""
    torch.manual_seed(0)
    decoder = lb.conv(2, 8, 8, (1, 32, 32), upsampling=upsampling)
    with torch.no_grad():
        dense = decoder.network.network[0].layers[0]
        dense.weight.zero_()
        dense.bias.fill_(1.0)
    return decoder


def test_resizing_leaves_no_checkerboard():
    deviations = {}
    for upsampling in ("transposed", "resize"):
        picture = _make_constant_decoder(upsampling)(torch.zeros(1, 2))[0, 0]
        deviations[upsampling] = float(picture[8:-8, 8:-8].std().detach())
    assert deviations["resize"] < 1e-6
    assert deviations["transposed"] > 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lb.mlp(4), "at least its inputs and its outputs"),
        (lambda: lb.mlp(4, 0, 2), "0"),
        (lambda: lb.mlp(4, 2.5, 2), "2.5"),
        (
            lambda: lb.mlp(4, 8, 2, activation="tan"),
            "activation='tan' is unknown; choose one of elu",
        ),
        (lambda: lb.conv((1, 8, 8), 4), "at least one layer"),
        (lambda: lb.conv((1, 8, 8), 4, 4, 4, 4, 2), "has shrunk to 1 x 1 before layer 4"),
        (lambda: lb.conv((1, 8, 8), 4, (1, 8, 8)), "from a size of 8 x 8 to 4 x 4, but the other"),
        (lambda: lb.conv((1, 8, 8), 4, (1, 8)), "from a picture"),
        (lambda: lb.conv((1, 8, 8), 4, (2, 4, 4), hidden=(3,)), "are layers of a vector"),
        (lambda: lb.conv(2, 4, (1, 8, 8), upsampling="nearest"), "upsampling='nearest' is unknown"),
        (lambda: lb.conv((1, 8, 8), 4, 2, norm="batch"), "norm='batch' is unknown"),
        (lambda: lb.mlp(4, 4, 2, norm="group"), "norm='group' is unknown; choose 'layer'"),
        (lambda: lb.mlp(4, 4, 2, residual=-1), "residual=-1"),
        (lambda: lb.conv(8, 4, 8), "from a picture"),
        (lambda: lb.conv((1, 8, 8), 4, 4, 2, stride=(2, 2, 2)), "2 layers but 3 strides"),
    ],
)
def test_invalid_networks_say_why(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


# Conditionals


@conditional
def test_conditionals_keep_leading_dimensions_as_batch(name):
    make, event = CONDITIONALS[name]
    p = make()(torch.rand(3, 5, 4))
    assert isinstance(p, Distribution)
    assert p.event_shape == event
    assert p.batch_shape == (() if name in UNCONDITIONAL else (3, 5))
    assert p.sample().shape == (*p.batch_shape, *event)
    assert p.log_prob(torch.zeros(5, *event)).shape == (p.batch_shape or (5,))
    if name in WITHOUT_MOMENTS:
        return
    assert p.mean.shape == p.variance.shape == (*p.batch_shape, *event)


@conditional
def test_densities_are_float32_at_least(name):
    make, event = CONDITIONALS[name]
    p = make().bfloat16()(torch.rand(5, 4, dtype=torch.bfloat16))
    assert p.log_prob(torch.zeros(5, *event)).dtype == torch.float32


@pytest.mark.parametrize("name", sorted(CONDITIONALS.keys() - WITHOUT_MOMENTS))
def test_samples_have_the_stated_mean_and_variance(name):
    """Each of up to 20 entries at 5 standard errors: less than one false alarm in 10^4 runs."""
    make, _ = CONDITIONALS[name]
    p = make().double()(torch.rand(1, 4, dtype=torch.float64))
    draws = p.sample((20_000,)).double()
    mean, variance = p.mean, p.variance
    assert (draws.mean(0) - mean).abs().le(5 * (variance / 20_000).sqrt() + 1e-12).all()
    fourth = ((draws - mean) ** 4).mean(0)
    error = ((fourth - variance**2) / 20_000).sqrt()
    assert (((draws - mean) ** 2).mean(0) - variance).abs().le(5 * error + 1e-12).all()


@conditional
def test_conditionals_are_rebuilt_from_their_description(name):
    part = CONDITIONALS[name][0]()
    description = describe(part)
    again = build(description)
    again.load_state_dict(part.state_dict())
    assert describe(again) == description


def test_scales_stay_between_their_bounds():
    for value in (-1e30, -40.0, 0.0, 40.0, 1e30):
        gaussian = lb.Gaussian(lb.mlp(1, 2), min_scale=0.01, max_scale=5.0)
        with torch.no_grad():
            for parameter in gaussian.parameters():
                parameter.fill_(value)
        scale = gaussian(torch.zeros(1, 1)).stddev
        assert torch.isfinite(scale).all()
        assert (scale >= 0.01 * (1 - 1e-6)).all()
        assert (scale <= 5.0 * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: lb.Gaussian(lb.mlp(4, 3)),
            ShapeError,
            r"\(3,\) cannot be split into mean and log variance",
        ),
        (lambda: lb.Gaussian(lb.mlp(4, 4), scale=0.0), SettingsError, "scale=0.0 is unknown"),
        (lambda: lb.Gaussian(lb.mlp(4, 4), scale=True), SettingsError, "scale=True is unknown"),
        (lambda: lb.MixturePrior(2, 3, spread="1"), SettingsError, "spread='1' must be a positive"),
        (
            lambda: lb.Categorical(lb.mlp(4, 4), 2, codes="yes"),
            SettingsError,
            "codes='yes' must be True or False",
        ),
        (
            lambda: lb.Gaussian(lb.mlp(4, 4), scale="learned"),
            SettingsError,
            "scale='learned' is unknown",
        ),
        (lambda: lb.Gaussian(lb.mlp(4, 4), mean="tanh"), SettingsError, "mean='tanh' is unknown"),
        (lambda: lb.Gaussian(lb.mlp(4, 4), min_scale=0.0), SettingsError, "must be positive"),
        (
            lambda: lb.Gaussian(lb.mlp(4, 4), min_scale=1.0, max_scale=2.0),
            SettingsError,
            r"more than e\^2 times",
        ),
        (
            lambda: lb.Gaussian(torch.nn.Linear(4, 4), scale="elementwise"),
            ShapeError,
            "declares its output_shape",
        ),
        (lambda: lb.StandardNormal(0), SettingsError, "0 is not a size"),
    ],
)
def test_invalid_conditionals_say_why(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Objectives and models


@functools.cache
def shared_model(name):
    """A model that tests share, because none of them changes its weights."""
    return MODELS[name]()


@pytest.mark.parametrize("which", OBJECTIVES)
@model
def test_every_objective_gives_a_bound_for_each_example(name, which):
    vae, goal = shared_model(name), OBJECTIVES[which]()
    vae.zero_grad()
    try:
        draw = vae.draw(images(name), goal.samples, goal.gradient)
        bound = goal(draw)
    except UnsupportedError:
        with pytest.raises(UnsupportedError, match=REASONS[which]):
            goal(vae.draw(images(name), goal.samples, goal.gradient))
        return
    assert getattr(goal, "kl", None) != "closed-form" or draw.analytic_rate is not None
    terms = goal.terms(draw)
    assert bound.shape == (11,)
    assert torch.isfinite(bound).all()
    torch.testing.assert_close(bound, terms["bound"])
    if isinstance(goal, lb.ELBO):
        torch.testing.assert_close(terms["bound"], -(terms["rate"] + terms["distortion"]))
    bound.sum().backward()
    gradients = [p.grad.flatten() for p in vae.parameters() if p.grad is not None]
    assert torch.cat(gradients).isfinite().all()


@model
def test_terms_have_the_stated_shapes(name):
    draw = MODELS[name]().draw(images(name), samples=3)
    assert draw.z.shape[:2] == (3, 11)
    assert (
        draw.log_likelihood.shape
        == draw.log_prior.shape
        == draw.log_q.shape
        == draw.log_w.shape
        == (3, 11)
    )
    assert draw.rate.shape == draw.sampled_rate.shape == (11,)
    torch.testing.assert_close(draw.log_w, draw.log_likelihood + draw.log_prior - draw.log_q)


@model
def test_the_gradient_reaches_every_parameter(name):
    vae = MODELS[name]()
    (-lb.ELBO(kl="sampled")(vae.draw(images(name))).mean()).backward()
    for parameter_name, parameter in vae.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@model
def test_terms_are_computed_only_when_read(name, monkeypatch):
    vae = MODELS[name]()
    draw = vae.draw(images(name))
    read: list[str] = []

    def watched(term):
        compute = getattr(draw, term)
        return lambda: (read.append(term), compute())[1]

    for term in ("likelihood_term", "prior_term", "posterior_term"):
        monkeypatch.setitem(draw.__dict__, term, watched(term))
    lb.ELBO()(draw)
    lb.ELBO()(draw)
    expected = (
        ["likelihood_term"]
        if draw.has_closed_form_rate
        else ["likelihood_term", "prior_term", "posterior_term"]
    )
    assert sorted(read) == sorted(expected)


@model
def test_a_dataset_s_bound_does_not_depend_on_the_batch_size(name):
    vae, data = MODELS[name]().double(), images(name, 9).double()
    first = lb.evaluate(vae, lb.ELBO(samples=3), data, seed=5, batch_size=9)
    for size in (1, 4, 8):
        again = lb.evaluate(vae, lb.ELBO(samples=3), data, seed=5, batch_size=size)
        torch.testing.assert_close(again.per_example, first.per_example, rtol=1e-12, atol=1e-12)
        assert again.mean == pytest.approx(float(first.per_example.mean()), rel=1e-12)
    other = lb.evaluate(vae, lb.ELBO(samples=3), data, seed=6)
    assert (other.mean == first.mean) == (name in WITHOUT_NOISE)


@model
def test_a_log_likelihood_does_not_depend_on_batches_and_chunks(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    x = images(name, 11).double()
    whole = lb.log_likelihood(model, x, 20, compile="never").per_example
    for batch, chunk in ((1, 1), (3, 7)):
        parts = lb.log_likelihood(
            model, x, 20, batch_size=batch, chunk_size=chunk, compile="never"
        ).per_example
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


@model
def test_a_saved_model_has_the_same_bits(name, tmp_path):
    """So do its bounds, and it shares as many parameters; only foreign parts need a constructor."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = images(name, 5)
    lb.save(model, tmp_path / "model")
    modules = {type(part).__module__.split(".")[0] for part in model.modules()}
    has_foreign_parts = bool(modules & {"constructors", "zuko"})
    loaded = lb.load(tmp_path / "model", constructor=MODELS[name] if has_foreign_parts else None)
    assert describe(loaded) == describe(model)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert len(list(loaded.parameters())) == len(list(model.parameters()))
    bounds = [lb.evaluate(each, lb.ELBO(), x).per_example for each in (model, loaded)]
    assert torch.equal(*bounds)


@model
def test_evaluation_leaves_no_traces(name):
    vae = MODELS[name]()
    vae.train()
    vae.likelihood.eval()
    before, state = copy.deepcopy(vae.state_dict()), torch.get_rng_state()
    modes = [module.training for module in vae.modules()]
    lb.evaluate(vae, lb.ELBO(), images(name))
    assert {True, False} == set(modes)
    assert [module.training for module in vae.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


@model
def test_embeddings_and_reconstructions_are_the_same_at_every_call(name):
    vae, data = MODELS[name](), images(name)
    points, again, few = (as_vectors(vae.encode(x)) for x in (data, data, data[3:4]))
    assert torch.equal(points, again)
    torch.testing.assert_close(few[0], points[3])
    assert torch.equal(vae.reconstruct(data), vae.reconstruct(data))
    assert vae.reconstruct(data).shape == data.shape


def as_vectors(points):
    """The points of one group of latents, or of several."""
    groups = points.values() if isinstance(points, dict) else [points]
    return torch.cat([group.flatten(1) for group in groups], 1)


@model
def test_samples_have_the_data_s_shape_and_follow_their_seed(name):
    vae = MODELS[name]()
    state = torch.get_rng_state()
    first = vae.sample(5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (5, *IMAGE)
    assert torch.equal(vae.sample(5, seed=3), first)
    assert not torch.equal(vae.sample(5, seed=4), first)
    if "binary" in name:
        assert set(first.unique().tolist()) <= {0.0, 1.0}
        assert len(vae.sample(5, mean=True, seed=3).unique()) > 2


@model
def test_a_copy_is_independent(name):
    vae = MODELS[name]()
    twin = copy.deepcopy(vae)
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(vae.parameters()))


@objective
def test_objectives_are_frozen_and_described(name):
    goal = OBJECTIVES[name]()
    with pytest.raises(FrozenInstanceError):
        goal.samples = 3
    assert build(describe(goal)) == goal


@pytest.mark.parametrize(
    "settings", [{"samples": 0}, {"samples": 1.5}, {"samples": True}, {"kl": "exact"}]
)
def test_objectives_refuse_bad_settings(settings):
    with pytest.raises(SettingsError, match=f"ELBO: {next(iter(settings))}="):
        lb.ELBO(**settings)


class Shared(torch.nn.Module):
    """A posterior that forgets its examples: its batch shape would broadcast."""

    def __init__(self):
        super().__init__()
        self.gaussian = lb.Gaussian(lb.mlp(IMAGE, 4))

    def forward(self, x):
        return self.gaussian(x[:1])


def test_shapes_that_would_broadcast_are_refused():
    decoder = lb.Gaussian(lb.mlp(2, (2, 9, 7)))
    with pytest.raises(ShapeError, match=r"batch shape \(1,\) .* for 3 examples"):
        lb.LatentModel(lb.StandardNormal(2), Shared(), decoder).draw(torch.rand(3, *IMAGE))


@dataclass(frozen=True)
class Forgetful(lb.Objective):
    """Forgets to average over the samples."""

    samples: int = 5
    gradient: str = "pathwise"

    def bound(self, draw):
        return draw.log_w


def test_a_bound_of_another_shape_is_refused():
    vae, x = MODELS["Gaussian"](), images("Gaussian")
    for use in (
        lambda: lb.evaluate(vae, Forgetful(), x),
        lambda: lb.fit(vae, Forgetful(), x, epochs=1, progress=False),
    ):
        with pytest.raises(
            ShapeError,
            match=r"Forgetful: the term 'bound' has the shape \(5, 11\); it must have .* \(11,\)",
        ):
            use()


def test_the_standard_error_is_that_of_the_mean():
    estimate = lb.Estimate(torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64))
    assert estimate.mean == 4.0
    # sqrt(sum of squared deviations / (n - 1) / n) = sqrt(38 / 3 / 4)
    assert estimate.standard_error == pytest.approx((38 / 12) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("name", [name for name in MODELS if "flow" not in name])
def test_a_model_in_half_precision_is_scored_in_single(name):
    vae, x = MODELS[name]().bfloat16(), images(name)
    draw = vae.draw(x, samples=3)
    for term in (draw.log_likelihood, draw.log_prior, draw.log_q, draw.rate):
        assert term.dtype == torch.float32
    estimate = lb.evaluate(vae, lb.ELBO(), x)
    single = lb.evaluate(vae.float(), lb.ELBO(), x)
    assert estimate.mean == pytest.approx(single.mean, rel=0.02)


def test_an_example_keeps_its_noise_in_every_part_of_its_dataset():
    data = lb.load_data((torch.rand(40, *IMAGE) * 255).to(torch.uint8), pixels="binarize")
    vae = MODELS["binary"]()
    whole, test = vae.encode(data.all()), vae.encode(data.test)
    torch.testing.assert_close(test, whole[data.test.rows])
    bounds = lb.evaluate(vae, lb.ELBO(), data.all()).per_example
    torch.testing.assert_close(
        lb.evaluate(vae, lb.ELBO(), data.test).per_example, bounds[data.test.rows]
    )


def test_what_does_not_go_through_a_model_is_named_with_a_remedy():
    vae = MODELS["Gaussian"]()
    with pytest.raises(
        ShapeError, match=r"data: examples of shape \(9, 7\) do not fit the model: MLP takes"
    ):
        lb.evaluate(vae, lb.ELBO(), torch.rand(4, 9, 7))
    own = lb.LatentModel(
        vae.prior,
        vae.posterior,
        lb.Gaussian(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 126))),
    )
    with pytest.raises(ShapeError, match=r"flatten_leading"):
        lb.evaluate(own, lb.ELBO(), images("Gaussian"))
    with pytest.raises(
        UnsupportedError, match="the likelihood returned a Tensor; its forward must return"
    ):
        lb.LatentModel(vae.prior, vae.posterior, lb.mlp(2, IMAGE)).draw(images("Gaussian"))
    with pytest.raises(
        SettingsError,
        match=r"objective must be a lowerbound.Objective, not the class ELBO; call it: ELBO\(\)",
    ):
        lb.fit(vae, lb.ELBO, images("Gaussian"))
    with pytest.raises(SettingsError, match=r"model must be a lowerbound.Model, not ELBO"):
        lb.fit(lb.ELBO(), vae, images("Gaussian"))


def test_parts_that_do_not_fit_are_refused_by_name():
    x = torch.rand(3, *IMAGE)
    encoder, decoder = lb.Gaussian(lb.mlp(IMAGE, 4)), lb.Gaussian(lb.mlp(2, (2, 9, 7)))
    with pytest.raises(
        ShapeError,
        match=r"posterior is over events of shape \(2,\), but the prior is over \(3,\)",
    ):
        lb.LatentModel(lb.StandardNormal(3), encoder, decoder).draw(x)
    with pytest.raises(ShapeError, match=r"^the posterior is over"):  # and not that data do not fit
        lb.evaluate(lb.LatentModel(lb.StandardNormal(3), encoder, decoder), lb.ELBO(), x)
    with pytest.raises(ShapeError, match=r"likelihood is over events of shape \(6,\)"):
        lb.LatentModel(lb.StandardNormal(2), encoder, lb.Gaussian(lb.mlp(2, 12))).draw(x)
    with pytest.raises(UnsupportedError, match=r"DiagonalNormal is continuous .* is discrete"):
        lb.LatentModel(lb.StandardNormal(2), lb.Bernoulli(lb.mlp(IMAGE, 2)), decoder).draw(x)
    binary = lb.LatentModel(lb.Bernoulli(lb.constant(2)), lb.Bernoulli(lb.mlp(IMAGE, 2)), decoder)
    with pytest.raises(UnsupportedError, match="cannot be reparameterised"):
        binary.draw(x)
    with pytest.raises(UnsupportedError, match="gradient='score' is unknown"):
        lb.LatentModel(lb.StandardNormal(2), encoder, decoder).draw(x, gradient="score")


def test_bernoulli_says_what_it_wants():
    vae = MODELS["binary"]()
    grey = images("binary")
    grey[7, 0, 0, 0] = 0.5
    with pytest.raises(DataError, match=r"row 7 has grey values.*pixels='binarize'.*binarize-once"):
        lb.evaluate(vae, lb.ELBO(), grey)
    grey[4, 0, 0, 0] = 1.5
    with pytest.raises(DataError, match=r"needs values in \[0, 1\], but row 4 spans \[0, 1.5\]"):
        lb.evaluate(vae, lb.ELBO(), grey)
    eight_bits = lb.Examples.of((torch.rand(9, *IMAGE) * 255).to(torch.uint8))
    assert lb.evaluate(vae, lb.ELBO(), eight_bits.prepare("binarize")).mean < 0
    assert lb.evaluate(vae, lb.ELBO(), eight_bits.prepare("binarize-once")).mean < 0


def test_bits_per_dimension_are_reported_for_dequantised_pixels_only():
    vae, eight_bits = (
        MODELS["Gaussian"](),
        lb.Examples.of((torch.rand(9, *IMAGE) * 255).to(torch.uint8)),
    )
    assert lb.evaluate(vae, lb.ELBO(), eight_bits).bits_per_dimension is None
    estimate = lb.evaluate(vae, lb.ELBO(), eight_bits.prepare("dequantize"))
    expected = -estimate.mean / (63 * torch.log(torch.tensor(2.0)).item()) + 8
    assert estimate.bits_per_dimension == pytest.approx(expected, rel=1e-6)
