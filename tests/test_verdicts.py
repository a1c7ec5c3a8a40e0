"""Verdicts are right about the whole posterior, also where q has no draws, and for every seed."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import (
    Distribution,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

import lowerbound as lb
from lowerbound.distributions import FactorialBernoulli
from lowerbound.errors import LogJointError, SettingsError, UnsupportedError
from lowerbound.evaluation import posterior_probes
from lowerbound.evaluation.posterior_reference import Reference
from lowerbound.models import user_log_joint
from lowerbound.models.pathfinder import CurvedGaussian, find_gaussians
from lowerbound.runtime import memory

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "verdicts"
SEEDS = range(4)
ORDER = ("bad", "usable", "good")


def two_modes(a):
    modes = Normal(torch.tensor([3.0, -3.0]), torch.tensor([0.3, 0.6])).log_prob(a[:, None])
    return (modes + torch.tensor([0.7, 0.3]).log()).logsumexp(-1)


def student(a):
    """A t distribution with 3 degrees of freedom, in as many dimensions as a has."""
    freedom, size = 3.0, a.shape[-1]
    constant = math.lgamma((freedom + size) / 2) - math.lgamma(freedom / 2)
    constant -= size / 2 * math.log(freedom * math.pi)
    return constant - (freedom + size) / 2 * (a.square().sum(-1) / freedom).log1p()


def placed(log_joint, size, centre=0.0, scale=1.0):
    """Make an untrained mean-field posterior with a given centre and scale."""
    model = lb.LogJoint(log_joint, lb.mean_field, {"a": size})
    return model.start(at={"a": torch.full((size,), centre)}, spread=scale)


class Bits(nn.Module):
    """Independent bits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self):
        return FactorialBernoulli(self.logits)


def judge(model, **keywords):
    return [lb.posterior_health(model, seed=seed, **keywords) for seed in SEEDS]


def verdicts(healths):
    return {health.verdict for health in healths}


def test_a_mode_that_q_misses_is_found_and_named():
    for place, scale, optimum in ((3.0, 0.3, "a = -3"), (-3.0, 0.6, "a = 3")):
        model = lb.LogJoint(two_modes, lb.full_rank, {"a": ()})
        healths = judge(model.start(at={"a": place}, spread=scale), samples=3000)
        assert verdicts(healths) == {"bad"}
        for health in healths:
            assert health.effective_samples > 2900
            assert health.log_evidence == pytest.approx(0.0, abs=4 * health.log_evidence_error)
            assert health.missed == pytest.approx(0.3 if place > 0 else 0.7, abs=0.05)
            assert optimum in health.findings[0].cause
            assert "fit_from_optima" in health.findings[0].remedy


def test_start_keeps_the_separate_optima():
    model = lb.LogJoint(two_modes, lb.full_rank, {"a": ()}).start(paths=8)
    assert len(model.optima) == 2
    best, other = model.optima
    assert best.bound == pytest.approx(math.log(0.7), abs=0.1)
    assert other.bound == pytest.approx(math.log(0.3), abs=0.1)
    assert float(model.centre) == pytest.approx(float(best.values["a"]))
    model.start(at=other)
    assert float(model.centre) == pytest.approx(-3.0, abs=0.05)
    assert float(model.spread) == pytest.approx(0.6, abs=0.1)
    normal = lb.LogJoint(lambda a: Normal(2.0, 3.0).log_prob(a), lb.full_rank, {"a": ()})
    assert len(normal.start(paths=8).optima) == 1


def test_posteriors_from_all_optima_are_compared_and_the_best_is_kept():
    model = lb.LogJoint(two_modes, lb.full_rank, {"a": ()})
    found = lb.fit_from_optima(
        model, lb.ELBO(samples=10), starts=8, steps=30, learning_rate=0.01, progress=False
    )
    assert found.shares == pytest.approx((0.7, 0.3), abs=0.03)
    assert found.log_evidence == pytest.approx(0.0, abs=0.05)
    assert float(model.posterior_sample(100, seed=0)["a"].min()) > 0
    assert "2 separate places" in str(found)
    with pytest.raises(UnsupportedError, match="others have no optima"):
        lb.fit_from_optima(nn.Linear(1, 1), lb.ELBO())
    with pytest.raises(SettingsError, match="cannot write to one directory"):
        lb.fit_from_optima(model, lb.ELBO(), directory="run")


def agreeing_bits(bit):
    """The log probability of three bits: half of the posterior is at 000 and half at 111."""
    sign = 2 * bit - 1
    return 4 * (sign[:, 0] * sign[:, 1] + sign[:, 1] * sign[:, 2]) - 8 - math.log(2)


def test_bits_that_agree_are_judged_by_all_of_their_states():
    model = lb.LogJoint(agreeing_bits, lambda size: Bits([9.0] * size), {"bit": 3})
    for health in judge(model, samples=1000):
        assert health.verdict == "bad"
        assert health.missed == pytest.approx(0.5, abs=0.01)
        assert health.log_evidence == pytest.approx(0.0, abs=0.01)
        assert "q misses about 50% of the posterior" in str(health)
        assert "moving and stretching" not in str(health)


def test_equal_weights_are_described_in_words():
    model = lb.LogJoint(agreeing_bits, lambda size: Bits([9.0] * size), {"bit": 3})
    health = lb.posterior_health(model, samples=1000)
    assert (health.pareto_k, math.isnan(health.points_pareto_k)) == (-math.inf, True)
    first, *_, last = list(health.lines())
    assert first.startswith("bad: Pareto k-hat minus infinity (the largest weights are equal), eff")
    assert last.endswith("2 are effective, k-hat unknown (too few weights)")
    assert not {"inf", "nan"} & set(re.findall(r"\w+", str(health)))


def test_with_separate_optima_there_is_no_advice_about_the_shape_of_q():
    """The moments are those of both modes, so they say nothing about the width of q at its own."""
    model = lb.LogJoint(two_modes, lb.mean_field, {"a": ()})
    model.start(at={"a": torch.tensor(3.0)}, spread=0.3)
    health = lb.posterior_health(model)
    (finding,) = health.findings
    assert (health.verdict, finding.cause[:15]) == ("bad", "separate optima")
    assert health.missed == pytest.approx(0.3, abs=0.01)
    assert "IWAE" not in finding.remedy


def test_only_the_draws_and_points_are_stored_whole(monkeypatch):
    """No temporary tensor is nearly as large, and slices do not change the results."""
    model = lb.LogJoint(lambda a: student(a) - a[:, 0].exp(), lb.full_rank, {"a": 20})
    whole = lb.posterior_health(model, samples=500)
    monkeypatch.setattr(memory, "_VALUES_PER_SLICE", 1 << 12)
    health = lb.posterior_health(model, samples=500)
    assert health.log_evidence == pytest.approx(whole.log_evidence, abs=1e-5)
    assert health.draws.scale == pytest.approx(whole.draws.scale, rel=1e-5)
    assert (health.verdict, health.missed) == (whole.verdict, pytest.approx(whole.missed, abs=1e-5))
    causes, expected = ([one.cause for one in each.findings] for each in (health, whole))
    assert causes == expected
    assert len(causes) > 1
    monkeypatch.setattr(memory, "_VALUES_PER_BATCH", 1 << 13)
    with memory.TensorSizes() as made:
        lb.posterior_health(model, samples=500)
    # Draws and gradients in one tensor, its two parts, the points, and their values.
    assert sum(size > 0.75 * 500 * 20 for size in made.sizes) == 5


def test_the_advice_for_bits_names_no_flow():
    """These weights are uneven, but no state is missed."""
    model = lb.LogJoint(agreeing_bits, lambda size: Bits([0.0] * size), {"bit": 3})
    health = lb.posterior_health(model, samples=1000)
    assert health.missed == 0
    assert "one whose variables depend on each other" in str(health)
    assert "flow" not in str(health)


def test_random_starts_find_both_states_of_bits_that_agree():
    model = lb.LogJoint(agreeing_bits, lambda size: Bits([0.0] * size), {"bit": 3})
    objective = lb.ELBO(samples=10, gradient="score-function")
    found = lb.fit_from_optima(
        model, objective, starts=4, steps=100, learning_rate=0.2, progress=False
    )
    assert len(found.separate) == 2


def test_more_bits_than_can_be_enumerated_are_known_only_where_q_has_draws():
    model = lb.LogJoint(
        lambda bit: bit.sum(-1) * 0.0 - 13 * math.log(2),
        lambda size: Bits([0.0] * size),
        {"bit": 13},
    )
    health = lb.posterior_health(model, samples=1000)
    assert health.is_lower_bound
    assert "at least" in str(health)
    assert "known only where q has draws" in health.findings[0].what


def test_heavy_tails_are_bad_in_every_seed():
    """k-hat of 10,000 draws is often below 0.7 here, although a few draws have all the weight."""
    healths = judge(placed(student, 10, scale=1.08))
    assert verdicts(healths) == {"bad"}
    for health in healths:
        assert health.log_evidence == pytest.approx(0.0, abs=4 * health.log_evidence_error)
        assert health.gap == pytest.approx(0.39, abs=0.05)
    healths = judge(placed(lambda a: StudentT(3.0).log_prob(a).sum(-1), 1, scale=1.2))
    assert verdicts(healths) == {"bad"}


def test_a_correlation_of_998_is_bad_in_every_seed():
    covariance = torch.tensor([[1.0, 0.998], [0.998, 1.0]])
    normal = MultivariateNormal(torch.zeros(2).double(), covariance.double())
    model = placed(lambda a: normal.log_prob(a.double()), 2, scale=(1 - 0.998**2) ** 0.5)
    healths = judge(model, samples=3000)
    assert verdicts(healths) == {"bad"}
    for health in healths:
        assert health.log_evidence == pytest.approx(0.0, abs=4 * health.log_evidence_error)
    assert "the correlation 1.00, but under q" in str(healths[0])


def test_a_posterior_with_wrong_draws_is_usable_if_weights_correct_them():
    normal = lambda a: Normal(0.0, 1.0).log_prob(a).sum(-1)  # noqa: E731
    for model in (placed(normal, 1, centre=0.97), placed(normal, 1, scale=2.0)):
        assert verdicts(judge(model)) == {"usable"}
    health = lb.posterior_health(placed(normal, 1, centre=0.97))
    assert health.draws.mean == pytest.approx(0.97, abs=0.03)
    assert health.weighted_draws.mean < 0.01
    assert "draws: means off by 0.9" in str(health)


def test_draws_that_fit_are_good_although_the_weights_have_a_heavy_tail():
    """The left tail of log a is not that of a Gaussian, but has almost no mass."""
    gamma = Gamma(30.0, 1.0)
    scale = 30**-0.5
    model = lb.LogJoint(
        lambda a: gamma.log_prob(a.exp()).sum(-1) + a.sum(-1), lb.mean_field, {"a": 1}
    ).start(at={"a": torch.tensor([math.log(30.0) - scale**2 / 2])}, spread=scale)
    healths = judge(model)
    assert verdicts(healths) == {"good"}
    assert max(health.pareto_k for health in healths) > 0.7


def test_only_a_lower_limit_is_given_if_few_points_have_most_of_the_weight():
    """A wide component is known from a few probes only, so log p(x) is bounded from below."""

    def log_joint(a):
        narrow, wide = (Normal(0.0, scale).log_prob(a[:, 0]) for scale in (1.0, 30.0))
        return torch.logaddexp(narrow + math.log(0.9), wide + math.log(0.1))

    for health in judge(placed(log_joint, 1)):
        assert health.verdict == "bad"
        assert health.is_lower_bound
        assert health.elbo - 0.1 < health.log_evidence_limit <= 0
        assert f"log p(x): at least {health.log_evidence_limit:.3f}" in str(health)


def test_a_lower_limit_holds_for_weights_without_a_variance():
    generator = torch.Generator().manual_seed(0)
    above = 0
    for _ in range(400):
        # Pareto weights of shape 0.9, whose mean is 10.
        log_w = -0.9 * torch.rand(1000, generator=generator, dtype=torch.float64).log()
        points = log_w[:, None]
        blocks = torch.arange(1000) % 10
        reference = Reference(points, points, log_w, torch.zeros_like(log_w), blocks)
        above += reference.log_evidence_limit > math.log(10.0)
    assert above <= 400 / 40


def test_an_optimum_has_the_density_of_its_draws():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    normal = MultivariateNormal(torch.zeros(4).double(), root @ root.T + torch.eye(4).double())
    noise = torch.randn(50, 4, generator=generator, dtype=torch.float64).numpy()
    ((_, gaussian),) = find_gaussians(normal.log_prob, [torch.ones(4).double().numpy()], noise)
    assert isinstance(gaussian, CurvedGaussian)
    draws, log_density = gaussian.draw(noise)
    assert gaussian.log_prob(draws) == pytest.approx(log_density, abs=1e-8)


def test_points_where_a_log_joint_fails_are_impossible():
    """Probes far from q reach values at which this log joint raises an error."""

    def log_joint(a):
        if bool((a.abs() > 8).any()):
            raise ValueError("a is out of reach")
        return Normal(0.0, 1.0).log_prob(a)

    model = lb.LogJoint(log_joint, lb.mean_field, {"a": ()})
    health = lb.posterior_health(model, samples=500)
    assert health.verdict == "good"
    assert health.points > 500
    assert model.start().is_started
    with pytest.raises(LogJointError, match="out of reach"):
        lb.LogJoint(lambda a: log_joint(a + 100), lb.mean_field, {"a": ()}).start()


def test_the_rounding_of_a_large_log_joint_is_part_of_its_error():
    model = placed(lambda a: Normal(0.0, 1.0).log_prob(a).sum(-1) + 1e6 + 0.03, 1)
    health = lb.posterior_health(model, samples=1000)
    assert abs(health.log_evidence - 1e6 - 0.03) < health.log_evidence_error
    assert health.log_evidence_error < 0.2
    assert any("is rounded to about 0.1" in finding.what for finding in health.findings)
    exact = lb.posterior_health(model.double(), samples=1000)
    assert exact.verdict == "good"
    assert not exact.findings


def of_many_examples(batch, scale, mean):
    likelihood = Normal(mean[:, None], 1.0).log_prob(batch[:, 0]).sum(-1)
    return Normal(0.0, 1.0).log_prob(mean) + scale * likelihood


def test_a_log_joint_of_many_examples_is_summed_in_float64():
    """In float32 the sum is off by a tenth of a nat."""
    x = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(0))
    model = lb.LogJoint(of_many_examples, lb.mean_field, {"mean": ()}, size=len(x))
    u = torch.tensor([[0.5], [-0.5]])
    likelihood = Normal(u.double(), 1.0).log_prob(x[:, 0].double()).sum(-1)
    exact = likelihood + Normal(0.0, 1.0).log_prob(u.double())[:, 0]
    found = model.with_all_data(x).log_density(u)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)
    assert float((of_many_examples(x, 1.0, u[:, 0]) - exact).abs().max()) > 0.05


def test_a_log_joint_that_takes_only_float32_gets_it(monkeypatch):
    def log_joint(batch, scale, mean):
        return of_many_examples(batch, scale, (mean[:, None] @ torch.ones(1, 1))[:, 0])

    x = torch.randn(50, 1)
    model = lb.LogJoint(log_joint, lb.mean_field, {"mean": ()}, size=len(x))
    u = torch.randn(4, 1)
    at_once = model.with_all_data(x).log_density(u)
    monkeypatch.setattr(user_log_joint, "_MOST_EXAMPLES", 7)
    parts = model.with_all_data(x).log_density(u)
    assert parts.dtype == torch.float32
    torch.testing.assert_close(parts, at_once, rtol=1e-5, atol=1e-4)


def test_all_values_of_a_log_joint_have_one_precision(monkeypatch):
    """Some points have no Cholesky factor, in any type; that says nothing about float64."""
    monkeypatch.setattr(user_log_joint, "_MOST_EXAMPLES", 7)
    off = torch.tensor([[0.0, 1.0], [1.0, 0.0]])

    def log_joint(batch, scale, mean):
        matrix = torch.eye(2) + off.to(mean) * mean[:, None, None]
        return of_many_examples(batch, scale, mean) + torch.linalg.cholesky(matrix).sum((1, 2))

    x, inside, outside = torch.zeros(20, 1), torch.zeros(3, 1), torch.full((3, 1), 2.0)
    for points in ([outside, inside], [inside, outside, inside]):
        model = lb.LogJoint(log_joint, lb.mean_field, {"mean": ()}, size=len(x)).with_all_data(x)
        for u in points:
            if u is outside:
                with pytest.raises(LogJointError, match="cholesky"):
                    model.log_density(u)
            else:
                assert model.log_density(u).dtype == torch.float64


def test_the_error_of_a_log_joint_that_takes_only_float32_is_its_own(monkeypatch):
    monkeypatch.setattr(user_log_joint, "_MOST_EXAMPLES", 7)

    def log_joint(batch, scale, mean):
        (mean[:, None] @ torch.ones(1, 1)).sum()
        raise ValueError("the mistake")

    model = lb.LogJoint(log_joint, lb.mean_field, {"mean": ()}, size=20)
    with pytest.raises(LogJointError, match="the mistake"):
        model.with_all_data(torch.zeros(20, 1)).log_density(torch.zeros(2, 1))


class Fixed(nn.Module):
    """A given distribution as q."""

    def __init__(self, q):
        super().__init__()
        self.q = q
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self):
        return self.q


def test_a_continuous_q_whose_draws_are_rounded_to_equal_values_is_not_discrete():
    q = Fixed(Independent(Normal(torch.full((5,), 5000.0), 0.01), 1))
    model = lb.LogJoint(lambda a: Normal(5000.0, 0.01).log_prob(a).sum(-1), q, {"a": 5})
    health = lb.posterior_health(model, samples=1000)
    assert health.verdict == "good"
    assert not health.is_lower_bound
    assert "at least" not in str(health)


def test_a_q_without_a_known_support_is_discrete_if_nearly_all_values_repeat():
    silent = Distribution(validate_args=False)
    draws = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
    assert not posterior_probes._has_discrete_values(silent, draws)
    draws[1] = draws[0]
    assert not posterior_probes._has_discrete_values(silent, draws)
    assert posterior_probes._has_discrete_values(silent, draws.round())
    assert not posterior_probes._has_discrete_values(Normal(0.0, 1.0), draws.round())
    assert posterior_probes._has_discrete_values(Poisson(1e9), draws)


def test_an_error_at_probes_is_told_as_it_is():
    def log_joint(a):
        if len(a) not in (1, 4, 500):
            raise ValueError("it takes 500 draws")
        return Normal(0.0, 1.0).log_prob(a)

    with pytest.raises(LogJointError, match="it takes 500 draws"):
        lb.posterior_health(lb.LogJoint(log_joint, lb.mean_field, {"a": ()}), samples=500)


def test_optima_are_sought_from_points_near_q_and_far_from_it():
    """Paths from points near zero do not reach modes at a distance of twelve."""

    def log_joint(a):
        modes = Normal(torch.tensor([0.0, 12.0, -12.0]), 1.0).log_prob(a[:, None])
        return modes.logsumexp(-1) - math.log(3)

    model = lb.LogJoint(log_joint, lb.mean_field, {"a": ()})
    for seed in range(2):
        places = [
            abs(float(optimum.values["a"]))
            for optimum in lb.posterior_health(model, samples=100, seed=seed).optima
        ]
        assert places
        assert places == pytest.approx([12.0] * len(places), abs=0.1)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_verdicts_are_never_better_than_the_truth(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    place = result["columns"].index("verdict")
    found = [seed[place] for seed in result["seeds"]]
    assert len(found) == 20
    assert ORDER.index(max(found, key=ORDER.index)) <= ORDER.index(result["truth"])
    if result["set"] == "chosen":
        assert max(found.count(verdict) for verdict in ORDER) >= 19


def test_committed_verdicts_are_all_of_one_version():
    results = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    assert len({result["version"] for result in results}) == 1
    sets = [result["set"] for result in results]
    assert (sets.count("chosen"), sets.count("hold-out")) == (20, 20)
