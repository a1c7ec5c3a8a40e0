"""Bounds with several samples under a logarithm, the ways of their gradients, and schedules."""

import math
from itertools import product

import pytest
import torch
import zuko
from torch import nn

import lowerbound as lb
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.objectives.importance import PowerMean
from lowerbound.training.observing import Observer

DOUBLE = torch.float64
GRADIENTS = ("pathwise", "sticking-the-landing", "dreg", "score-function")


def gaussian_vae(latent: int = 2) -> lb.LatentModel:
    return lb.LatentModel(
        lb.Gaussian(lb.constant(2 * latent)),
        lb.Gaussian(lb.mlp(6, 8, 2 * latent, activation="tanh")),
        lb.Bernoulli(lb.mlp(latent, 8, 6, activation="tanh")),
    ).double()


def binary_vae(latent: int = 2) -> lb.LatentModel:
    return lb.LatentModel(
        lb.Bernoulli(lb.constant(latent)),
        lb.Bernoulli(lb.mlp(6, 8, latent, activation="tanh")),
        lb.Bernoulli(lb.mlp(latent, 8, 6, activation="tanh")),
    ).double()


def binary_data(count: int = 3) -> torch.Tensor:
    return (torch.rand(count, 6, dtype=DOUBLE) > 0.5).double()


def gradients(model: nn.Module, value: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, retain_graph=True), strict=True))


# The power mean and its derivatives

MEANS = [
    PowerMean(),
    PowerMean(0.5),
    PowerMean(0.97),
    PowerMean(1 - 1e-6, 2),
    PowerMean(1.0),
    PowerMean(2.0),
    PowerMean(0.0, 3),
    PowerMean(0.3, 2, 0.1),
]


@pytest.mark.parametrize("mean", MEANS, ids=repr)
def test_weights_are_derivatives_and_path_weights_leave_their_own_out(mean):
    log_w = torch.randn(6, 4, dtype=DOUBLE) * 2
    log_w.requires_grad_()
    (first,) = torch.autograd.grad(mean.value(log_w).sum(), log_w, create_graph=True)
    torch.testing.assert_close(mean.weights(log_w), first)
    second = torch.stack(
        [
            torch.autograd.grad(first[k].sum(), log_w, retain_graph=True, allow_unused=True)[0][k]
            for k in range(6)
        ]
        if first.requires_grad
        else [torch.zeros(4, dtype=DOUBLE)] * 6
    )
    torch.testing.assert_close(mean.path_weights(log_w), first - second)


@pytest.mark.parametrize("mean", MEANS, ids=repr)
def test_an_advantage_is_what_is_lost_when_the_others_stand_in(mean):
    log_w = torch.randn(6, 4, dtype=DOUBLE) * 2
    size = 6 // mean.groups
    for k in range(6):
        group = [j for j in range(6) if j // size == k // size and j != k]
        replaced = log_w.clone()
        replaced[k] = log_w[group].mean(0)
        lost = mean.value(log_w) - mean.value(replaced)
        torch.testing.assert_close(mean.advantages(log_w)[k], lost)


def test_groups_and_combinations_are_what_rainforth_defines():
    draw = gaussian_vae().draw(binary_data(), 6)
    log_w = draw.log_w
    single = (log_w.logsumexp(0)) - math.log(6)
    of_two = (log_w.reshape(2, 3, -1).logsumexp(1) - math.log(3)).mean(0)
    torch.testing.assert_close(lb.IWAE(6)(draw), single)
    torch.testing.assert_close(lb.IWAE(6, groups=2)(draw), of_two)
    torch.testing.assert_close(lb.IWAE(6, encoder_groups=2)(draw), single)
    torch.testing.assert_close(
        lb.IWAE(6, elbo_weight=0.05)(draw), 0.05 * log_w.mean(0) + 0.95 * single
    )
    torch.testing.assert_close(lb.IWAE(6, groups=6)(draw), log_w.mean(0))


def test_special_cases_are_the_same_to_the_last_bit():
    draw = gaussian_vae().float().draw(binary_data().float(), 1)
    assert torch.equal(lb.IWAE(1)(draw), lb.ELBO(1, kl="sampled")(draw))
    draw = gaussian_vae().float().draw(binary_data().float(), 7)
    assert torch.equal(lb.Renyi(0.0, 7)(draw), lb.IWAE(7)(draw))
    assert torch.equal(lb.Renyi(1.0, 7)(draw), lb.ELBO(7, kl="sampled")(draw))


def test_bounds_of_renyi_fall_with_alpha():
    draw = gaussian_vae().draw(binary_data(), 50)
    bounds = torch.stack([lb.Renyi(alpha, 50)(draw) for alpha in (0.0, 0.3, 0.9, 1.0, 1.5, 4.0)])
    assert (bounds[:-1] > bounds[1:]).all()


def test_renyi_near_one_keeps_its_digits_in_float32():
    draw = gaussian_vae().float().draw(binary_data().float(), 50)
    elbo = lb.ELBO(50, "sampled")(draw)
    for distance in (1e-3, 1e-5, 1e-8, -1e-5):
        expected = elbo + 0.5 * distance * draw.log_w.var(0, correction=0)
        torch.testing.assert_close(lb.Renyi(1 - distance, 50)(draw), expected, rtol=1e-5, atol=1e-5)


# What each part of the model climbs


def test_partial_weighting_gives_each_part_its_own_bound():
    """The same noise: the decoder's gradient is the single bound's, the encoder's is the grouped
    bound's."""
    model, x = gaussian_vae(), binary_data()
    found = {}
    for name, objective in {
        "single": lb.IWAE(6),
        "grouped": lb.IWAE(6, groups=3),
        "partial": lb.IWAE(6, encoder_groups=3),
    }.items():
        torch.manual_seed(1)
        found[name] = gradients(model, objective(model.draw(x, 6)).sum())
    for name, gradient in found["partial"].items():
        expected = found["grouped" if name.startswith("posterior") else "single"][name]
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", ["sticking-the-landing", "dreg"])
def test_the_model_s_own_gradient_is_the_bound_s_whatever_the_encoder_s(gradient):
    model, x = gaussian_vae(), binary_data()
    torch.manual_seed(1)
    plain = gradients(model, lb.IWAE(6)(model.draw(x, 6)).sum())
    torch.manual_seed(1)
    other = gradients(model, lb.IWAE(6, gradient)(model.draw(x, 6, gradient)).sum())
    for name in plain:
        if name.startswith("posterior"):
            assert not torch.allclose(plain[name], other[name])
        else:
            torch.testing.assert_close(plain[name], other[name], rtol=1e-12, atol=1e-12)


def test_negligible_weights_divide_without_harm():
    """A group 200 nats worse than the best: its encoder still gets the gradient of its own bound,
    in float32."""
    model, x = gaussian_vae().float(), binary_data().float()
    draw = model.draw(x, 4)
    shift = torch.tensor([0.0, 0.0, -200.0, -200.0])[:, None]
    draw.__dict__["log_likelihood"] = draw.log_likelihood + shift
    found = gradients(model, lb.IWAE(4, encoder_groups=2)(draw).sum())
    expected = gradients(
        model, 0.5 * (draw.log_w[:2].logsumexp(0) + draw.log_w[2:].logsumexp(0)).sum()
    )
    for name, gradient in found.items():
        if name.startswith("posterior"):
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [lb.IWAE(6, "dreg"), lb.IWAE(6, encoder_groups=3), lb.Renyi(0.5, 6, "dreg")],
    ids=repr,
)
def test_gradients_of_one_draw_add_up(objective):
    """Other terms of the same draw have their own gradients, beside this one, before it and after
    it."""
    model, x = gaussian_vae(), binary_data()
    draw = model.draw(x, 6)
    alone = gradients(model, objective(draw).sum())
    plain = gradients(model, draw.log_w.logsumexp(0).sum())
    more = gradients(
        model,
        draw.z.square().sum() + draw.log_likelihood.sum() + draw.log_prior.sum() + draw.log_q.sum(),
    )
    decoder = list(model.likelihood.parameters())
    torch.autograd.grad(objective(draw).sum(), decoder, retain_graph=True)
    terms = (
        draw.z.square().sum() + draw.log_likelihood.sum() + draw.log_prior.sum() + draw.log_q.sum()
    )
    together = gradients(model, objective(draw).sum() + terms)
    again = gradients(model, draw.log_w.logsumexp(0).sum())
    for name in alone:
        torch.testing.assert_close(together[name], alone[name] + more[name], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(again[name], plain[name], rtol=0, atol=0)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_weight_of_zero_does_no_harm(gradient):
    """As where an example is outside of the support of a likelihood, for one of its draws."""
    model, x = gaussian_vae(), binary_data()
    for objective in (lb.IWAE(6, gradient), lb.IWAE(6, gradient, encoder_groups=2)):
        if gradient == "score-function":
            continue  # its baseline is the mean of logarithms, which is then none
        draw = model.draw(x, 6, gradient)
        draw.__dict__["log_likelihood"] = draw.log_likelihood.index_fill(
            0, torch.tensor([2]), -math.inf
        )
        found = gradients(model, objective(draw).sum())
        assert objective(draw).isfinite().all()
        assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(
    "make",
    [lambda g: lb.ELBO(4, gradient=g), lambda g: lb.IWAE(4, g), lambda g: lb.Renyi(0.5, 4, g)],
    ids=["elbo", "iwae", "renyi"],
)
def test_what_is_reported_is_the_bound(make, gradient):
    model, x = gaussian_vae(), binary_data()
    objective = make(gradient)
    draw = model.draw(x, 4, gradient)
    assert torch.equal(objective(draw), objective.bound(draw))
    assert torch.equal(objective(draw), objective.terms(draw)["bound"])


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda k: lb.ELBO(k, gradient="score-function"),
        lambda k: lb.ELBO(k, "sampled", "score-function"),
        lambda k: lb.ELBO(k, "sampled", "score-function", beta=3.0),
        lambda k: lb.IWAE(k, "score-function"),
        lambda k: lb.Renyi(0.5, k, "score-function"),
        lambda k: lb.IWAE(k, "score-function", elbo_weight=0.3),
    ],
    ids=["elbo", "sampled elbo", "beta", "iwae", "renyi", "combined"],
)
def test_the_score_function_gradient_is_that_of_the_expected_bound(samples, make):
    """By enumeration of all tuples of latents: the estimator's mean is exact, so no error rate is
    needed."""
    model, objective = binary_vae(2), make(samples)
    points = torch.tensor(list(product((0.0, 1.0), repeat=2)), dtype=DOUBLE)
    z = points[torch.tensor(list(product(range(len(points)), repeat=samples)))].transpose(0, 1)
    x = binary_data(1).expand(z.shape[1], -1)  # the same example, once for each tuple
    beta = getattr(objective, "beta", 1.0)

    def draw_all():
        q, prior, p = model.posterior(x), model.prior(), model.likelihood(z)
        return lb.Draw(
            z=z,
            likelihood_term=lambda: p.log_prob(x),
            prior_term=lambda: prior.log_prob(z),
            posterior_term=lambda: q.log_prob(z),
            q=q,
            prior=prior,
            p=p,
        )

    draw = draw_all()
    probability = draw.log_q.sum(0).exp()
    torch.testing.assert_close(probability.sum(), torch.ones((), dtype=DOUBLE))
    value = objective.bound(draw)
    if beta != 1.0:
        value = draw.log_likelihood.mean(0) - beta * draw.sampled_rate
    estimated = gradients(model, (probability.detach() * objective(draw_all())).sum())
    for name, gradient in gradients(model, (probability * value).sum()).items():
        torch.testing.assert_close(estimated[name], gradient, rtol=1e-10, atol=1e-12)


# Impossible pairs


class Implicit(torch.distributions.Distribution):
    """Draws that can be made, but not scored."""

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, loc):
        super().__init__(loc.shape[:1], loc.shape[1:], validate_args=False)
        self.loc = loc

    def rsample(self, sample_shape=()):
        return (
            self.loc + torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype)
        ).tanh()


class ImplicitPosterior(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = lb.mlp(6, 2)

    def forward(self, x):
        return Implicit(self.network(x))


def test_impossible_pairs_are_refused_by_name_before_anything_is_written(tmp_path):
    discrete = binary_vae().float()
    x = binary_data(20).float()
    for gradient in ("pathwise", "sticking-the-landing", "dreg"):
        with pytest.raises(
            UnsupportedError, match="FactorialBernoulli, which cannot be reparameterised"
        ):
            lb.fit(discrete, lb.IWAE(4, gradient), x, directory=tmp_path / "run", progress=False)
    implicit = lb.LatentModel(lb.StandardNormal(2), ImplicitPosterior(), lb.Bernoulli(lb.mlp(2, 6)))
    with pytest.raises(UnsupportedError, match="Implicit, which cannot score a given point"):
        lb.fit(implicit, lb.IWAE(4, "dreg"), x, directory=tmp_path / "run", progress=False)
    dropping = lb.LatentModel(
        lb.StandardNormal(2),
        zuko.flows.MAF(2, 6, 1, hidden_features=(8,)),
        lb.Bernoulli(lb.mlp(2, 6)),
    )
    dropping.posterior.append_dropout = nn.Dropout()
    with pytest.raises(UnsupportedError, match="NormalizingFlow whose network has a Dropout"):
        dropping.train().draw(x, 2, "dreg").log_q_stopgrad_parameters  # noqa: B018
    flow = lb.LatentModel(lb.StandardNormal(2), zuko.flows.MAF(2, 6, 1), lb.Bernoulli(lb.mlp(2, 6)))
    with pytest.raises(
        UnsupportedError, match=r"in closed form, which is not known for NormalizingFlow"
    ):
        lb.fit(flow, lb.ELBO(free_bits=0.1), x, directory=tmp_path / "run", progress=False)
    mixed = lb.LatentModel(
        lb.Bernoulli(lb.constant(2)), lb.Gaussian(lb.mlp(6, 4)), lb.Bernoulli(lb.mlp(2, 6))
    )
    with pytest.raises(
        UnsupportedError,
        match="prior's FactorialBernoulli is discrete and the posterior's DiagonalNormal is cont",
    ):
        lb.log_likelihood(mixed, x)
    with pytest.raises(UnsupportedError, match="neither has a density under the other"):
        lb.fit(mixed, lb.ELBO(), x, directory=tmp_path / "run", progress=False)
    with pytest.raises(UnsupportedError, match="gradient='reinforce' is unknown"):
        discrete.draw(x, gradient="reinforce")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lb.IWAE(0), "IWAE: samples=0"),
        (
            lambda: lb.IWAE(5, "vimco"),
            "IWAE: gradient='vimco' is unknown; choose one of 'pathwise'",
        ),
        (lambda: lb.IWAE(6, groups=4), "samples=6 cannot be divided into 4 equal groups"),
        (lambda: lb.IWAE(6, encoder_groups=5), "cannot be divided into 5"),
        (
            lambda: lb.IWAE(6, elbo_weight=1.5),
            "elbo_weight=1.5 must be a finite number from 0 to 1",
        ),
        (lambda: lb.IWAE(1, "score-function"), "the others of its group, but a group has only one"),
        (lambda: lb.IWAE(6, "score-function", groups=6), "a group has only one"),
        (
            lambda: lb.ELBO(1, gradient="score-function"),
            "ELBO: gradient='score-function' computes the baseline",
        ),
        (lambda: lb.ELBO(kl="closed-form", gradient="dreg"), "excludes kl='closed-form'"),
        (lambda: lb.ELBO(beta=-1.0), "beta=-1.0 must be a finite number of at least 0"),
        (lambda: lb.ELBO(capacity=math.nan), "capacity=nan"),
        (lambda: lb.ELBO(free_bits=0.1, capacity=3.0), "excludes capacity"),
        (lambda: lb.ELBO(free_bits=0.1, kl="sampled"), "excludes capacity, kl='sampled'"),
        (lambda: lb.Renyi(-1.0), "alpha=-1.0 must be a finite number of at least 0"),
        (lambda: lb.Ramp(0.0, 1.0), "give the length once"),
        (lambda: lb.Ramp(0.0, 1.0, epochs=1, steps=2), "give the length once"),
        (lambda: lb.Ramp(0.0, 1.0, steps=-3), "the length must be positive, not -3"),
        (lambda: lb.Ramp(0.0, math.inf, steps=3), "Ramp: stop=inf must be a finite number"),
        (lambda: lb.Ramp("a", 1.0, steps=3), "Ramp: start='a' must be a finite number"),
        (lambda: lb.Ramp(0.0, 1.0, epochs="3"), "Ramp: epochs='3' must be a finite number"),
        (
            lambda: lb.ELBO(beta=lb.Ramp(-1.0, 1.0, steps=3)),
            r"ELBO: beta=Ramp\(start=-1.0.* of at "
            r"least 0",
        ),
        (lambda: lb.ELBO(beta="4"), "ELBO: beta='4' must be a finite number of at least 0"),
        (
            lambda: lb.IWAE(elbo_weight="x"),
            "IWAE: elbo_weight='x' must be a finite number from 0 to 1",
        ),
        (
            lambda: lb.IWAE(elbo_weight=lb.Ramp(0.0, 2.0, steps=3)),
            r"elbo_weight=Ramp\(.* from 0 to "
            r"1",
        ),
    ],
)
def test_invalid_objectives_say_why(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


# Weights, thresholds and schedules of the rate


def test_penalties_are_what_their_papers_say():
    model, x = gaussian_vae(3), binary_data(8)
    torch.manual_seed(1)
    draw = model.draw(x)
    units = draw.unit_rates
    torch.testing.assert_close(units.sum(1), draw.rate)
    floor = float(units.detach().mean(0).sort().values[:2].mean())
    assert (units.mean(0) > floor).sum() == 2
    likelihood = draw.log_likelihood.mean()
    free = gradients(model, lb.ELBO(free_bits=floor).surrogate(draw).mean())
    aimed = {
        c: gradients(model, lb.ELBO(beta=7.0, capacity=c).surrogate(draw).mean())
        for c in (0.0, 100.0)
    }
    expected = [
        (free, likelihood - units.mean(0).clamp_min(floor).sum()),
        (aimed[0.0], likelihood - 7 * draw.rate.mean().abs()),
        (aimed[100.0], likelihood - 7 * (draw.rate.mean() - 100).abs()),
    ]
    for found, value in expected:
        for name, gradient in gradients(model, value).items():
            torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize(
    "objective", [lb.ELBO(beta=4.0), lb.ELBO(free_bits=0.5), lb.ELBO(capacity=3.0)], ids=repr
)
def test_weights_of_the_rate_do_not_touch_what_is_reported(objective):
    draw = gaussian_vae().draw(binary_data())
    assert torch.equal(objective.terms(draw)["bound"], lb.ELBO().terms(draw)["bound"])
    assert torch.equal(objective(draw), lb.ELBO()(draw))


def test_a_schedule_moves_while_training_and_says_where_it_got_to(tmp_path, capsys):
    model, x = gaussian_vae().float(), binary_data(20).float()
    seen, reached = [], []

    class Watched(lb.Ramp):
        def at(self, step, epoch):
            seen.append((step, epoch))
            return super().at(step, epoch)

    class Watch(Observer):
        def on_step(self, loop):
            reached.append((seen[-1], float(loop.step.current.beta)))

    watched = lb.ELBO(beta=Watched(0.0, 1.0, epochs=2))
    lb.fit(model, watched, x, epochs=2, batch_size=8, progress=False, observers=[Watch()])
    assert [when for when, _ in reached] == [
        (0, 0.0),
        (1, 0.4),
        (2, 0.8),
        (3, 1.0),
        (4, 1.4),
        (5, 1.8),
    ]
    assert [beta for _, beta in reached] == pytest.approx([0.0, 0.2, 0.4, 0.5, 0.7, 0.9])

    objective = lb.ELBO(beta=lb.Ramp(0.0, 1.0, epochs=10))
    run = lb.fit(model, objective, x, epochs=2, batch_size=8, directory=tmp_path / "run")
    assert run.history[-1]["schedules"] == {"beta": {"reached": 0.2, "end": 1.0, "ended": False}}
    assert run.unfinished[0].startswith(
        "beta reached 0.2, not 1: the training ended before the schedule"
    )
    assert "beta reached 0.2" in repr(run)
    assert "beta reached 0.2" in capsys.readouterr().err
    assert (
        lb.fit(
            model, lb.ELBO(beta=lb.Ramp(0.0, 1.0, epochs=2)), x, epochs=2, progress=False
        ).unfinished
        == ()
    )
    resumed = lb.fit(
        model,
        objective,
        x,
        epochs=10,
        batch_size=8,
        directory=tmp_path / "run",
        resume=True,
        progress=False,
    )
    assert resumed.unfinished == ()


def test_schedules_of_one_s_own_objectives_move_too():
    class Mine(lb.Objective):
        weight = lb.Ramp(0.0, 1.0, steps=10)

        def __init__(self):
            self.other = lb.Ramp(2.0, 3.0, steps=10)

        def bound(self, draw):
            return lb.ELBO().bound(draw)

    mine = Mine()
    assert mine.schedules().keys() == {"weight", "other"}
    now = mine.holding({name: schedule.at(5, 0.0) for name, schedule in mine.schedules().items()})
    assert (now.weight, now.other) == (0.5, 2.5)
    assert isinstance(mine.weight, lb.Ramp)


def test_weights_that_were_kept_from_before_the_end_of_a_schedule_are_told_of():
    model, x = gaussian_vae().float(), binary_data(20).float()
    x = torch.cat([x[:2]] * 10)
    settings = {"batch_size": 8, "learning_rate": 0.03, "start": False, "progress": False}
    lb.fit(model, lb.ELBO(8), x, epochs=100, **settings)
    objective = lb.ELBO(beta=lb.Ramp(1.0, 1e3, epochs=5))
    run = lb.fit(
        model,
        objective,
        x,
        epochs=6,
        batch_size=8,
        learning_rate=0.05,
        validation=x,
        start=False,
        progress=False,
    )
    assert 1 <= run.best_epoch < 5
    assert run.unfinished[0].endswith(
        f"the kept weights are those of epoch {run.best_epoch}; train without validation to "
        "keep the last ones"
    )


def test_an_average_of_weights_that_is_mostly_of_the_first_step_is_told_of():
    model, x = gaussian_vae().float(), binary_data(20).float()
    settings = {"epochs": 2, "batch_size": 8, "progress": False}  # 6 steps
    run = lb.fit(model, lb.ELBO(), x, ema=0.99, **settings)
    assert run.unfinished == (
        "95% of the averaged weights are those of the first step: train longer, or average over "
        "fewer steps, with a smaller ema than 0.99",
    )
    assert lb.fit(model, lb.ELBO(), x, ema=0.6, **settings).unfinished == ()


def test_warm_up_resumes_where_it_stood(tmp_path):
    x = binary_data(20).float()
    results = []
    for parts in ((6,), (2, 6)):
        torch.manual_seed(5)
        model = gaussian_vae().float()
        for epochs in parts:
            run = lb.fit(
                model,
                lb.ELBO(beta=lb.Ramp(0.0, 2.0, steps=15)),
                x,
                epochs=epochs,
                batch_size=8,
                directory=tmp_path / str(len(parts)),
                resume=epochs != parts[0],
                progress=False,
            )
        results.append((run.history[-1]["train"], model.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


def test_a_model_with_discrete_latents_trains_and_is_evaluated():
    torch.manual_seed(0)
    patterns = (torch.rand(4, 6) > 0.5).float()
    x = patterns[torch.randint(4, (400,))]
    model = binary_vae(4).float()
    before = lb.log_likelihood(model, x, samples=100).mean
    lb.fit(model, lb.IWAE(8, "score-function"), x, epochs=60, learning_rate=0.01, progress=False)
    after = lb.log_likelihood(model, x, samples=100)
    assert after.mean > before + 1.5
    assert lb.evaluate(model, lb.ELBO(), x).mean < after.mean
    one, all_at_once = (
        lb.log_likelihood(model, x, 100, batch_size=size).per_example for size in (1, 400)
    )
    torch.testing.assert_close(one, all_at_once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", ["pathwise", "sticking-the-landing", "dreg", "score-function"])
def test_weights_that_do_not_count_give_no_denormal_gradients(dtype, gradient):
    """With which a processor multiplies many times as slowly."""
    torch.manual_seed(0)
    likelihood = lb.Gaussian(lb.mlp(2, 6), scale=0.02)
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), likelihood).to(dtype)
    seen = []

    def watch(module, given, out):
        out.register_hook(seen.append)

    likelihood.network.register_forward_hook(watch)
    draw = model.draw(torch.randn(5, 6, dtype=dtype), 40, gradient)
    assert (draw.log_w.amax(0) - draw.log_w.amin(0)).min() > 1000
    lb.IWAE(40, gradient).surrogate(draw).sum().backward()
    tiny = torch.finfo(dtype).tiny
    for slope in seen:
        assert slope.isfinite().all()
        assert not ((slope != 0) & (slope.abs() < tiny)).any()


@pytest.mark.parametrize("name", ["nice", "maf"])
def test_log_q_of_a_flow_has_no_gradient_to_its_parameters_but_through_z(name):
    """A flow of zuko evaluates its networks when it scores a point."""
    torch.manual_seed(0)
    posterior = lb.Flow(name, 2, context=3, transforms=2, hidden_features=(8,))
    vae = lb.LatentModel(lb.StandardNormal(2), posterior, lb.Gaussian(lb.mlp(2, 6))).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    draw = vae.draw(x, 3, "dreg")
    points = draw.z.detach().requires_grad_()
    (at_z,) = torch.autograd.grad(vae.posterior(x).log_prob(points).sum(), points)
    parameters = list(posterior.parameters())
    found = torch.autograd.grad(draw.log_q_stopgrad_parameters.sum(), parameters, retain_graph=True)
    expected = torch.autograd.grad((at_z * draw.z).sum(), parameters)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other)
