"""Posteriors from separate optima, also of trained models, and the optima that findings name."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.evaluation.posterior_reference import DrawErrors, Reference
from lowerbound.evaluation.posterior_verdict import Judgement, find_hidden_faults
from lowerbound.models.optima import Optimum

SHORT = {"steps": 2, "learning_rate": 0.001, "progress": False}
NONE = DrawErrors(0.0, 0.0, 1.0, 1.0)


def two_modes(a):
    """70% of the mass at 3 and 30% at -3."""
    modes = Normal(torch.tensor([3.0, -3.0]), torch.tensor([0.3, 0.6])).log_prob(a[:, None])
    return (modes + torch.tensor([0.7, 0.3]).log()).logsumexp(-1)


def far_modes(mass):
    """73% of the mass at 50 and 27% at -50."""
    parts = [Normal(50.0, 3.0).log_prob(mass), Normal(-50.0, 1.0).log_prob(mass) - 1.0]
    return torch.stack(parts).logsumexp(0) - math.log1p(math.exp(-1.0))


def trained(log_joint, family, name, mean, scale):
    """Make a posterior with the parameters that a training without start() leads to."""
    model = lb.LogJoint(log_joint, family, {name: ()})
    fitted = lb.LogJoint(lambda a: Normal(mean, scale).log_prob(a), model.posterior, {"a": ()})
    lb.fit(fitted, lb.ELBO(samples=2), steps=100, learning_rate=abs(mean) / 20, progress=False)
    return model


@pytest.mark.parametrize("family", [lb.full_rank, lambda size: lb.Flow("maf", size)])
def test_a_trained_posterior_starts_at_each_optimum(family):
    model = trained(two_modes, family, "a", -3.0, 0.6)
    found = lb.fit_from_optima(model, lb.ELBO(samples=10), starts=4, **SHORT)
    assert len(found.separate) == 2
    tolerance = 0.05 if family is lb.full_rank else 0.5
    for start, share in zip(found.separate, (0.7, 0.3), strict=True):
        assert start.bound.mean == pytest.approx(math.log(share), abs=tolerance)


def test_a_better_earlier_posterior_is_kept():
    model = lb.LogJoint(lambda a: Normal(3.0, 0.5).log_prob(a), lb.mean_field, {"a": ()})
    model.start(at={"a": 3.0}, spread=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bound = lb.evaluate(model, lb.ELBO()).mean
    # Two steps with this learning rate move q far away.
    found = lb.fit_from_optima(
        model, lb.ELBO(), starts=1, steps=2, learning_rate=3.0, progress=False
    )
    assert found.starts[0].is_earlier
    assert found.starts[0].bound.mean == pytest.approx(bound)
    assert bound > found.starts[1].bound.mean + 1
    assert "first from the posterior before" in str(found)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_optima_that_are_far_from_q_are_searched_and_can_be_passed_on():
    model = trained(far_modes, lb.mean_field, "mass", 50.0, 3.0)
    health = lb.posterior_health(model, samples=1000)
    assert [str(one).split("mass = ")[1][:3] for one in health.optima] == ["-50"]
    assert "optima=health.optima" in health.findings[0].remedy
    for optima in (None, health.optima):
        found = lb.fit_from_optima(model, lb.ELBO(samples=10), optima=optima, **SHORT)
        assert sorted(round(float(start.mean) / 50) for start in found.separate) == [-1, 1]
        assert found.log_evidence == pytest.approx(0.0, abs=0.1)
    assert float(model.posterior_sample(100, seed=0)["mass"].min()) > 30
    assert model.start(at=health.optima[0]).optima


def test_optima_that_the_model_has_are_used():
    model = lb.LogJoint(far_modes, lb.mean_field, {"mass": ()})
    other = trained(far_modes, lb.mean_field, "mass", 50.0, 3.0)
    model.optima = lb.posterior_health(other, samples=1000).optima
    found = lb.fit_from_optima(model, lb.ELBO(samples=10), starts=1, **SHORT)
    assert any(float(start.mean) < -40 for start in found.starts)


def test_optima_of_another_model_are_refused():
    other = lb.LogJoint(lambda a: Normal(0.0, 1.0).log_prob(a).sum(-1), lb.mean_field, {"a": 2})
    model = lb.LogJoint(two_modes, lb.mean_field, {"a": ()})
    for optima, message in (
        (other.start(paths=1).optima, "not an optimum over the 1 dimensions"),
        ((), "optima is empty"),
    ):
        with pytest.raises(SettingsError, match=message):
            lb.fit_from_optima(model, lb.ELBO(), optima=optima, **SHORT)


def causes_of_a_missed_half(*bounds):
    """The cause and remedy that are named if q misses half, with optima of these bounds."""
    points = torch.zeros(10, 1, dtype=torch.float64)
    reference = Reference(points, points, points[:, 0], points[:, 0], torch.arange(10))
    judged = Judgement(
        is_reliable=True, is_close=False, gap=1.0, draws=NONE, weighted_draws=NONE, missed=0.5
    )
    optima = tuple(Optimum({"a": torch.tensor(bound)}, bound, None) for bound in bounds)
    (finding,) = find_hidden_faults(reference, judged, 0.0, optima)
    return finding


def test_only_probable_optima_are_named_as_the_cause():
    finding = causes_of_a_missed_half(math.log(0.5), -34.96)
    assert finding.cause == "separate optima are far from q: bound -0.69 at a = -0.693"
    # Together, five of a tenth each are the missed half.
    assert "bound -2.30" in causes_of_a_missed_half(*[math.log(0.1)] * 5).cause
    for bound in (-3.6e20, -34.96, math.log(0.1)):
        finding = causes_of_a_missed_half(bound)
        assert finding.cause.startswith("parts of the posterior that q hardly draws are probable")
        assert "optima=" not in finding.remedy


class Point(nn.Module):
    """A posterior that is nearly a point, without a normalised density."""

    normalized = False

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1))

    def forward(self):
        return Independent(Normal(self.place, torch.full((1,), 1e-3)), 1)


def test_only_bounds_are_said_to_bound_the_evidence():
    class Score(lb.ELBO):
        is_bound = False

    model = lb.LogJoint(two_modes, lb.full_rank, {"a": ()})
    point = lb.LogJoint(two_modes, lambda size: Point(), {"a": ()})
    for scored, objective in ((model, Score()), (point, lb.ELBO())):
        found = lb.fit_from_optima(scored, objective, starts=2, **SHORT)
        assert "log p(x) is at least" not in str(found)
        assert "of the posterior" not in str(found)
        assert "scores, not bounds on log p(x)" in str(found)
        assert math.isnan(found.log_evidence)


def test_nothing_is_searched_before_the_settings_are_checked():
    def log_joint(a):
        raise AssertionError("the log joint was evaluated")

    model = lb.LogJoint(log_joint, lb.mean_field, {"a": ()})
    for given, settings in ((lb.ELBO(), {"epoch": 1}), (lb.ELBO, {}), (lb.ELBO(), {"steps": -1})):
        with pytest.raises(SettingsError, match=r"did you mean 'epochs'|call it|steps=-1"):
            lb.fit_from_optima(model, given, progress=False, **settings)
