"""Verdicts on posteriors: a good fit is called good, a bad one comes with cause and remedy."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Gamma, HalfCauchy, MultivariateNormal, Normal, StudentT, constraints

import lowerbound as lb
from lowerbound.errors import (
    LogJointError,
    NonFiniteError,
    SettingsError,
    ShapeError,
    UnsupportedError,
)
from lowerbound.evaluation import posterior_causes

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
FIT = {"learning_rate": 0.05, "schedule": "cosine", "progress": False}


def fitted(log_joint, posterior, variables, steps=1000, samples=10):
    torch.manual_seed(0)
    model = lb.LogJoint(log_joint, posterior, variables)
    if steps:
        lb.fit(model, lb.ELBO(samples=samples), steps=steps, **FIT)
    return model


def correlated(size, correlation):
    covariance = torch.full((size, size), correlation) + (1 - correlation) * torch.eye(size)
    return MultivariateNormal(torch.zeros(size), covariance)


def centred_schools(mean, spread, school):
    prior = Normal(0.0, 5.0).log_prob(mean) + HalfCauchy(5.0).log_prob(spread)
    school_prior = Normal(mean[:, None], spread[:, None]).log_prob(school).sum(-1)
    return prior + school_prior + Normal(school, ERROR).log_prob(EFFECT).sum(-1)


def causes(health):
    return " | ".join(finding.cause for finding in health.findings)


def test_an_exact_posterior_is_good():
    model = fitted(correlated(3, 0.5).log_prob, lb.full_rank, {"value": 3}, steps=2000)
    health = lb.posterior_health(model)
    assert health.verdict == "good"
    assert not health.findings
    assert health.log_evidence == pytest.approx(0.0, abs=0.01)
    assert 0 <= health.gap < 0.01
    assert str(health).startswith("good: Pareto k-hat")


def test_results_are_those_of_the_log_likelihood():
    model = fitted(correlated(2, 0.3).log_prob, lb.mean_field, {"value": 2}, steps=300)
    health, estimate = (
        lb.posterior_health(model, samples=20_000),
        lb.log_likelihood(model, samples=20_000),
    )
    assert health.log_evidence == pytest.approx(estimate.mean, abs=5 * health.log_evidence_error)
    assert health.elbo == pytest.approx(estimate.terms["elbo"].mean, abs=6 * health.elbo_error)
    assert health.effective_samples == pytest.approx(
        float(estimate.effective_sample_sizes), rel=0.2
    )


def test_correlation_that_q_lacks_is_named():
    health = lb.posterior_health(fitted(correlated(2, 0.95).log_prob, lb.mean_field, {"value": 2}))
    assert health.verdict != "good"
    assert "value[0] and value[1] have the correlation 0." in health.findings[0].cause
    assert "lb.full_rank" in health.findings[0].remedy


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (lb.mean_field, "lb.full_rank or a flow"),
        (lb.low_rank(1), "a larger rank, lb.full_rank or a flow"),
        (lb.full_rank, "a flow, such as"),
        (lambda size: lb.Flow("maf", size, transforms=1), "a flow with more transforms"),
    ],
)
def test_the_advice_never_names_the_family_that_q_already_has(family, expected):
    better = posterior_causes.name_better_posteriors(family(2)())
    assert better["richer"].startswith(expected)
    health = lb.posterior_health(
        lb.LogJoint(lambda a: StudentT(2.0).log_prob(a).sum(-1) - a[:, 0].exp(), family, {"a": 2}),
        samples=1000,
    )
    remedies = " ".join(finding.remedy for finding in health.findings)
    assert better["richer"] in remedies or better["skewed"] in remedies


def test_scales_that_are_too_small_are_named():
    model = fitted(lambda a: StudentT(3.0).log_prob(a), lb.mean_field, {"a": ()})
    health = lb.posterior_health(model)
    assert health.verdict != "good"
    assert "q is too narrow in a" in causes(health)


def test_skewness_is_named():
    model = fitted(lambda a: Gamma(0.5, 1.0).log_prob(a.exp()) + a, lb.mean_field, {"a": ()})
    health = lb.posterior_health(model)
    assert "a is skewed (-" in causes(health)


def test_a_training_that_has_not_converged_is_named():
    far = lambda a, b: Normal(3.0, 0.5).log_prob(a) + Normal(0.0, 1.0).log_prob(b)  # noqa: E731
    health = lb.posterior_health(fitted(far, lb.mean_field, {"a": (), "b": ()}, steps=0))
    assert "most of it in a: if it was trained with the ELBO, the training had not converged" in (
        causes(health)
    )
    assert "tolerance" in health.findings[0].remedy
    settled = fitted(far, lb.mean_field, {"a": (), "b": ()})
    assert lb.posterior_health(settled).findings == ()


def test_the_centred_eight_schools_are_called_bad():
    """A hierarchy with a funnel, for which Yao et al. 2018 find a k-hat above 0.7."""
    variables = {"mean": (), "spread": lb.Variable((), constraints.positive), "school": 8}
    health = lb.posterior_health(fitted(centred_schools, lb.mean_field, variables, steps=3000))
    assert health.verdict == "bad"
    assert health.pareto_k > 0.7
    assert health.findings
    assert "trust neither" in str(health)
    assert "at least" in str(health)


def test_what_moments_do_not_show_is_said(monkeypatch):
    for name in ("_find_correlation", "_find_wrong_scale", "_find_skewness"):
        monkeypatch.setattr(posterior_causes, name, lambda compared, advised: None)
    health = lb.posterior_health(fitted(correlated(2, 0.95).log_prob, lb.mean_field, {"value": 2}))
    assert "a shape that q cannot have" in causes(health)


def test_data_in_batches_are_judged_together():
    torch.manual_seed(0)
    x = torch.randn(50, 1)
    model = lb.LogJoint(
        lambda batch, scale, mean: (
            Normal(0.0, 1.0).log_prob(mean)
            + scale * Normal(mean[:, None], 1.0).log_prob(batch[:, 0]).sum(-1)
        ),
        lb.full_rank,
        {"mean": ()},
        size=50,
    )
    lb.fit(model, lb.ELBO(samples=10), x, steps=1000, batch_size=25, **FIT)
    health = lb.posterior_health(model, x)
    exact = MultivariateNormal(torch.zeros(50), torch.eye(50) + 1.0).log_prob(x[:, 0])
    assert health.verdict == "good"
    assert health.log_evidence == pytest.approx(float(exact), abs=0.02)
    with pytest.raises(SettingsError, match="needs data"):
        lb.posterior_health(model)


def test_other_models_are_sent_elsewhere():
    with pytest.raises(UnsupportedError, match="latent_health"):
        lb.posterior_health(
            lb.LatentModel(
                lb.StandardNormal(1), lb.Gaussian(lb.mlp(2, 2)), lb.Gaussian(lb.mlp(1, 4))
            )
        )


def test_draws_go_to_arviz():
    arviz = pytest.importorskip("arviz", reason="ArviZ is not installed")
    model = fitted(correlated(3, 0.5).log_prob, lb.full_rank, {"value": 3}, steps=0)
    data = lb.to_arviz(
        model, 400, dims={"value": ["place"]}, coords={"place": ["a", "b", "c"]}, seed=1
    )
    assert data.posterior["value"].sizes == {"chain": 1, "draw": 400, "place": 3}
    assert torch.equal(
        torch.from_numpy(data.posterior["value"].values[0]),
        model.posterior_sample(400, seed=1)["value"],
    )
    assert list(arviz.summary(data, kind="stats").index) == ["value[a]", "value[b]", "value[c]"]
    with pytest.raises(UnsupportedError, match="LogJoint"):
        lb.to_arviz(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(("log_joint", "message"), [
    (
        lambda a: Normal(torch.zeros(7), 1.0).log_prob(a).sum(-1),
        r"called with a \(2, 3\), failed: .*first dimension of each",
    ),
    (
        lambda a: a @ torch.zeros(3, dtype=torch.float64),
        r"make the data that the log joint uses of that type",
    ),
    (lambda a: {}["missing"], "missing"),
])  # fmt: skip
def test_errors_of_a_log_joint_are_told_with_its_shapes(log_joint, message):
    model = lb.LogJoint(log_joint, lb.mean_field, {"a": 3})
    with pytest.raises((LogJointError, KeyError), match=message):
        lb.evaluate(model, lb.ELBO())


def test_a_log_joint_of_other_arguments_is_refused():
    with pytest.raises(SettingsError, match="use the same names in both"):
        lb.LogJoint(lambda a, b: a + b, lb.mean_field, {"a": (), "c": ()})
    with pytest.raises(SettingsError, match="use the same names in both"):
        lb.LogJoint(lambda x, scale: x, lb.mean_field, {"x": ()}, size=3)


def test_a_posterior_that_is_much_too_wide_is_not_good():
    """Its weights average well, so k-hat is small; its draws are not the posterior's."""
    model = fitted(lambda a: Normal(0.0, 1.0).log_prob(a), lb.mean_field, {"a": ()}, steps=0)
    health = lb.posterior_health(model.start(at={"a": 0.0}, spread=10.0))
    assert health.verdict == "usable"
    assert "q is too wide in a: its standard deviation is 10" in causes(health)


def test_draws_that_are_impossible_are_told():
    def cut(a):
        return torch.where(a.abs() < 1.7, Normal(0.0, 1.0).log_prob(a), -math.inf)

    model = fitted(cut, lb.mean_field, {"a": ()}, steps=0)
    health = lb.posterior_health(model)
    assert health.verdict == "usable"
    assert "% of the draws are impossible" in health.findings[0].what
    assert (model.posterior_sample(500, resample=True)["a"].abs() < 1.7).all()


def test_a_log_joint_that_is_nowhere_possible_is_bad():
    model = fitted(lambda a: torch.where(a > 40.0, a, -math.inf), lb.mean_field, {"a": ()}, steps=0)
    health = lb.posterior_health(model)
    assert health.verdict == "bad"
    assert "100% of the draws are impossible" in str(health)
    with pytest.raises(NonFiniteError, match="fewer than 100"):
        model.posterior_sample(100, resample=True)


def test_an_infinite_log_joint_is_refused():
    model = fitted(lambda a: torch.where(a > 0, math.inf, a), lb.mean_field, {"a": ()}, steps=0)
    with pytest.raises(NonFiniteError, match="the log joint is infinite"):
        lb.posterior_health(model)


def test_a_log_joint_without_a_gradient_is_judged_by_its_weights_alone():
    model = fitted(
        lambda a: Normal(0.0, 1.0).log_prob(a.detach()), lb.mean_field, {"a": ()}, steps=0
    )
    health = lb.posterior_health(model)
    assert health.verdict == "good"
    assert not health.findings


def test_few_draws_give_no_verdict():
    model = fitted(lambda a: Normal(0.0, 1.0).log_prob(a), lb.mean_field, {"a": ()}, steps=0)
    with pytest.raises(SettingsError, match="too few for a verdict"):
        lb.posterior_health(model, samples=1)


def test_a_module_of_a_log_joint_is_evaluated_as_such():
    class Joint(nn.Module):
        def __init__(self):
            super().__init__()
            self.normal = nn.BatchNorm1d(1)
            self.seen = []

        def forward(self, x, scale, a):
            self.seen.append(self.training)
            return Normal(0.0, 1.0).log_prob(a) + scale * self.normal(x).sum()

    joint = Joint()
    model = lb.LogJoint(joint, lb.mean_field, {"a": ()}, size=20)
    x = torch.randn(20, 1) + 5
    lb.evaluate(model, lb.ELBO(), x)
    lb.posterior_health(model, x, samples=100)
    assert not any(joint.seen)
    assert joint.training
    assert joint.normal.running_mean == 0


def test_passes_are_cut_by_what_a_log_joint_takes():
    x = torch.randn(100_000)
    model = fitted(
        lambda a: Normal(a[:, None], 1.0).log_prob(x).sum(-1), lb.mean_field, {"a": ()}, steps=0
    )
    assert model.numbers_per_draw(model.examples(None)) == 100_000
    seen = []
    counting = lb.LogJoint(
        lambda a: seen.append(len(a)) or Normal(a[:, None], 1.0).log_prob(x).sum(-1),
        lb.mean_field,
        {"a": ()},
    )
    lb.evaluate(counting, lb.ELBO(samples=10))
    assert max(seen) <= 50


def test_a_log_joint_that_mixes_draws_is_refused():
    model = lb.LogJoint(
        lambda a, b: Normal(0.0, 1.0).log_prob(a) + Normal(0.0, 1.0).log_prob(b).sum(),
        lb.mean_field,
        {"a": (), "b": 2},
    )
    with pytest.raises(ShapeError, match=r"it mixes draws.*\.sum\(-1\), not \.sum\(\)"):
        lb.fit(model, lb.ELBO(), steps=2, progress=False)


def test_a_value_outside_of_a_support_is_told_as_such():
    model = lb.LogJoint(
        lambda scale: HalfCauchy(1.0, validate_args=True).log_prob(scale),
        lb.mean_field,
        {"scale": ()},
    )
    with pytest.raises(LogJointError, match=r"does not allow: give the variable its support"):
        lb.evaluate(model, lb.ELBO(samples=50))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: lb.Variable(constraints.positive, ()), "the support comes second"),
    (lambda: lb.Variable((), "positive"), "must be one of torch.distributions.constraints"),
    (lambda: lb.LogJoint(lambda a: a, lb.mean_field, ["a"]), "must be a dictionary"),
    (
        lambda: lb.LogJoint(lambda a: a, lb.mean_field, {"a": constraints.positive}),
        r"give lb.Variable\(\(\), ",
    ),
    (lambda: lb.LogJoint(lambda a: a, lb.mean_field, {"a": ()}).posterior_sample(0), "at least 1"),
])  # fmt: skip
def test_mistakes_in_variables_are_told(call, message):
    with pytest.raises(SettingsError, match=message):
        call()


def test_a_log_joint_without_a_gradient_is_not_trained_by_one():
    model = lb.LogJoint(lambda a: Normal(0.0, 1.0).log_prob(a.detach()), lb.mean_field, {"a": ()})
    with pytest.raises(SettingsError, match="no gradient with respect to its variables"):
        lb.fit(model, lb.ELBO(), steps=2, progress=False)
    lb.fit(model, lb.ELBO(samples=5, gradient="score-function"), steps=2, progress=False)


def test_where_a_log_joint_is_not_a_number_is_told_in_a_training():
    model = lb.LogJoint(
        lambda slope, rest: (slope - 5).log() + rest.sum(-1),
        lb.mean_field,
        {"slope": (), "rest": 6},
    )
    with pytest.raises(
        NonFiniteError,
        match=r"the log joint.*no finite value at slope = [-\d.]+, rest = \[.*, \.\.\.\]"
        r".*model\.start\(\)",
    ):
        lb.fit(model, lb.ELBO(), steps=2, progress=False)
