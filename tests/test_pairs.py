"""Every part of the tables fits every other part, or is refused with a reason that names both."""

import copy
import functools
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.conditionals.flow import find_flow_classes
from lowerbound.distributions import PointMass, is_point, unwrap_independent
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError

sys.path.insert(0, str(Path(__file__).parent))
from constructors import (
    CONDITIONALS,
    MODELS,
    OBJECTIVES,
    OTHER_MODELS,
    OTHER_OBJECTIVES,
    REASONS,
    UNCONDITIONAL,
    images,
)

# Rows of a table are data, and never latents.
LATENTS = {
    name: CONDITIONALS[name]
    for name in CONDITIONALS
    if not name.startswith(("Columns", "SelfMasked"))
}
POSTERIORS = sorted(LATENTS.keys() - UNCONDITIONAL)

# It learns from the values that it scores, and is refused as a posterior for that.
LEARNS = "Gaussian with optimal scale"


# The reasons for which other models refuse some objectives.
_SUMMED = "this model sums (some )?latents out"
OTHER_REASONS = {
    "enumerated": f"{_SUMMED}|cannot score a given point|entries of a .* are not independent",
    "semi-supervised": f"{_SUMMED}|cannot score a given point|do not say what q and the prior",
    "table": "^$",  # it takes every objective
}


class OfNothing(nn.Module):
    """A prior that is a conditional at one fixed input."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self):
        return self.part(torch.zeros(4))


@functools.cache
def make_part(name):
    """Make a part that tests share, whose parameters are not all zero."""
    torch.manual_seed(0)
    part = CONDITIONALS[name][0]()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return part


@functools.cache
def make_prior(name):
    if name in UNCONDITIONAL:
        return make_part(name)
    return OfNothing(make_part(name))


@functools.cache
def make_decoder(event):
    return lb.Gaussian(lb.mlp(event, 8))


@functools.cache
def list_values(name, role):
    """Draws of a distribution, ``[N, *event]``."""
    torch.manual_seed(1)
    part, event = copy.deepcopy(make_part(name)).double(), LATENTS[name][1]
    x = torch.randn(4, 4, dtype=torch.float64)
    if role == "prior" and name not in UNCONDITIONAL:
        x = torch.zeros(1, 4, dtype=torch.float64)
    p = part(x)
    if type(p) is PointMass:  # which may be any real vector
        return 3 * torch.randn(500, *event)
    with torch.no_grad():
        return p.sample((500,)).reshape(-1, *event)


def list_repeated(values):
    """Values of entries that occur often, and so have a probability."""
    found, counts = values.unique(return_counts=True)
    return set(found[counts > 5].tolist())


def satisfies(condition, values):
    return bool((condition(values) - 1).abs().lt(1e-4).all())


def is_possible(prior_name, name):
    """Whether draws from the posterior are possible under the prior, judged by draws of both."""
    prior, q = make_prior(prior_name)(), make_part(name)(torch.zeros(1, 4))
    z, others = list_values(name, "posterior"), list_values(prior_name, "prior")
    if is_point(prior) or not prior.support.check(z).all():
        return False
    if hasattr(prior.support, "codebook"):  # each part of the table has its own codebook
        return False
    points, own = list_repeated(z), list_repeated(others)
    if type(q) is PointMass:
        points = set()
    if points:
        is_mixed = len(own) == 1
        return points <= own if is_mixed else bool(own)
    for condition in (lambda v: v.norm(dim=-1), lambda v: v.sum(-1)):
        if satisfies(condition, z) and not satisfies(condition, others):
            return False
    return len(own) < 2


def find_reason(model, x, gradient):
    """Return why a model is refused, or ``None``."""
    try:
        model.draw(x, 2, gradient)
    except UnsupportedError as error:
        return str(error)
    return None


@pytest.mark.parametrize("prior_name", LATENTS)
def test_each_prior_takes_each_posterior_or_says_why_not(prior_name):
    event = LATENTS[prior_name][1]
    prior = make_prior(prior_name)
    prior_class = type(unwrap_independent(prior())).__name__
    x = torch.rand(4, 4)
    for name in POSTERIORS:
        if LATENTS[name][1] != event or name == LEARNS:
            continue
        posterior = make_part(name)
        q = posterior(x)
        objective = lb.ELBO(2, gradient="pathwise" if q.has_rsample else "score-function")
        model = lb.LatentModel(prior, posterior, make_decoder(event))
        reason = find_reason(model, x, objective.gradient)
        assert (reason is None) == is_possible(prior_name, name), (name, reason)
        if reason is not None:
            q_class = type(unwrap_independent(q)).__name__
            named = [f"the prior's {prior_class} " in reason, f"posterior's {q_class} " in reason]
            assert all(named) or "the codes of another" in reason
            continue
        model.zero_grad()
        bound = objective.surrogate(model.draw(x, 2, objective.gradient))
        bound.sum().backward()
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        assert bound.isfinite().all(), name
        assert all(gradient.isfinite().all() for gradient in gradients), name


def train(model, x, objective):
    run = lb.fit(model, objective, x, steps=3, batch_size=4, progress=False, compile="never")
    assert math.isfinite(run.history[-1]["train"]["bound"])


@pytest.mark.parametrize("name", POSTERIORS)
def test_each_conditional_trains_as_prior_and_posterior(name):
    make, event = LATENTS[name]
    posterior, prior = make(), OfNothing(make())
    q = posterior(torch.zeros(1, 4))
    if hasattr(posterior, "codebook") or hasattr(q, "codes"):
        prior = lb.CodePrior(posterior)
    elif is_point(q):
        prior = lb.StandardNormal(event)
    objective = lb.ELBO(2, gradient="pathwise" if q.has_rsample else "score-function")
    model = lb.LatentModel(prior, posterior, lb.Gaussian(lb.mlp(event, 8)))
    if name == LEARNS:
        with pytest.raises(UnsupportedError, match="scale='optimal', is for likelihoods; a post"):
            train(model, torch.rand(12, 4), objective)
        return
    train(model, torch.rand(12, 4), objective)


@pytest.mark.parametrize("name", sorted(UNCONDITIONAL))
def test_each_conditional_of_nothing_trains_as_a_prior(name):
    """Its posterior is of the same family, or one whose draws it allows."""
    make, event = LATENTS[name]
    prior = make()
    if "Code" in name or name == "AutoregressivePrior":
        posterior = prior.quantizer
    else:
        partners = [each for each in POSTERIORS if LATENTS[each][1] == event]
        allowed = (make_part(each) for each in partners if is_possible(name, each))
        posterior = next(allowed, None) or lb.Gaussian(lb.mlp(4, (2 * event[0], *event[1:])))
    q = posterior(torch.zeros(1, 4))
    objective = lb.ELBO(2, gradient="pathwise" if q.has_rsample else "score-function")
    train(
        lb.LatentModel(prior, posterior, lb.Gaussian(lb.mlp(event, 8))),
        torch.rand(12, 4),
        objective,
    )


@pytest.mark.parametrize("name", CONDITIONALS)
def test_each_conditional_trains_as_a_likelihood_or_says_why_not(name):
    make, event = CONDITIONALS[name]
    likelihood = make()
    p = likelihood(torch.randn(12, 4))
    x = p.sample().expand(12, *event)
    posterior = lb.Gaussian(lb.mlp(event, 8))
    model = lb.LatentModel(lb.StandardNormal(4), posterior, likelihood)
    if name in UNCONDITIONAL:
        with pytest.raises(ShapeError, match="the likelihood is over events of shape"):
            train(model, x, lb.ELBO())
    elif is_point(p):
        with pytest.raises(UnsupportedError, match=f"the likelihood's {type(p).__name__} has all"):
            train(model, x, lb.ELBO())
    else:
        train(model, x, lb.ELBO())


@pytest.mark.parametrize("name", sorted(UNCONDITIONAL))
def test_a_posterior_that_ignores_its_examples_is_refused(name):
    make, event = LATENTS[name]
    model = lb.LatentModel(make(), make(), lb.Gaussian(lb.mlp(event, 8)))
    with pytest.raises(ShapeError, match=r"the posterior returned batch shape \(\)"):
        model.draw(torch.rand(4, 4))


@pytest.mark.parametrize("name", find_flow_classes())
def test_flows_declare_their_support_and_score_data_for_each_draw(name):
    torch.manual_seed(0)
    flow = lb.Flow(name, 3, context=2).double()
    p = flow(torch.randn(5, 4, 2, dtype=torch.float64))
    with torch.no_grad():
        draws = p.sample()
        assert p.support.check(draws).all()
        expected = p.flow.log_prob(draws[0].expand(5, 4, 3))
        assert expected.isfinite().all()
        torch.testing.assert_close(p.log_prob(draws[0]), expected)


@pytest.mark.parametrize("name", LATENTS)
def test_draws_lie_in_the_support(name):
    """Also those of distributions of several dimensions of a batch."""
    p = make_part(name)(torch.randn(3, 5, 4))
    assert p.support.check(p.sample((20,))).all()


@pytest.mark.parametrize("name", LATENTS)
def test_gradients_of_log_probabilities_are_those_of_finite_differences(name):
    """Along one direction in the space of all parameters, in float64."""
    torch.manual_seed(2)
    part = copy.deepcopy(make_part(name)).double().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    values = part(x).sample((2,))
    parameters = [each for each in part.parameters() if each.requires_grad]
    directions = [torch.randn_like(each) for each in parameters]

    def score():
        return part(x).log_prob(values).sum()

    def score_at(step):
        with torch.no_grad():
            for each, direction in zip(parameters, directions, strict=True):
                each.add_(direction, alpha=step)
            result = float(score())
            for each, direction in zip(parameters, directions, strict=True):
                each.sub_(direction, alpha=step)
        return result

    log_prob = score()
    if is_point(part(x)):  # whose log probability is 0 at the point, and -inf elsewhere
        assert not log_prob.requires_grad
        return
    if not log_prob.requires_grad:  # nothing in it is trained
        assert score_at(1e-6) == pytest.approx(float(log_prob))
        return
    gradients = torch.autograd.grad(log_prob, parameters, allow_unused=True)
    slope = sum(
        float((gradient * direction).sum())
        for gradient, direction in zip(gradients, directions, strict=True)
        if gradient is not None
    )
    difference = (score_at(1e-6) - score_at(-1e-6)) / 2e-6
    assert slope == pytest.approx(difference, rel=1e-5, abs=1e-5)


@functools.cache
def make_model(name):
    """Make a model that tests share, and its examples."""
    torch.manual_seed(0)
    if name in MODELS:
        return MODELS[name](), lb.Examples.of(images(name)[:6])
    return OTHER_MODELS[name]()


def try_objective(name, which):
    """Compute a bound and its gradients, or return why that is refused."""
    model, examples = make_model(name)
    rows = torch.arange(len(examples))
    x, given = examples.batch(rows), examples.given(rows, model.needs, model.accepts)
    units = model.draw(x, 1, **given).z.flatten(2).shape[2]
    objective = (OBJECTIVES | OTHER_OBJECTIVES)[which]
    objective = objective(units) if which in OTHER_OBJECTIVES else objective()
    try:
        bound = objective.surrogate(model.draw(x, objective.samples, objective.gradient, **given))
    except (SettingsError, UnsupportedError) as error:
        return str(error)
    model.zero_grad()
    bound.sum().backward()
    assert bound.isfinite().all()
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)
    return None


@pytest.mark.parametrize("which", OTHER_OBJECTIVES)
def test_each_other_objective_takes_each_model_or_says_why_not(which):
    """The rest is in test_every_objective_gives_a_bound_for_each_example."""
    reasons = {name: try_objective(name, which) for name in (*MODELS, *OTHER_MODELS)}
    assert None in reasons.values()
    for name, reason in reasons.items():
        expected = OTHER_REASONS.get(name, "^$") + "|" + REASONS[which]
        assert reason is None or re.search(expected, reason), (name, reason)


@pytest.mark.parametrize("which", OBJECTIVES)
@pytest.mark.parametrize("name", OTHER_MODELS)
def test_each_other_model_takes_each_objective_or_says_why_not(name, which):
    reason = try_objective(name, which)
    assert reason is None or re.search(OTHER_REASONS[name], reason)


@pytest.mark.parametrize("name", [*MODELS, *OTHER_MODELS])
def test_each_model_trains(name):
    model, examples = copy.deepcopy(make_model(name))
    train(model, examples, lb.ELBO())


@pytest.mark.parametrize("which", [*OBJECTIVES, *OTHER_OBJECTIVES])
def test_each_objective_trains(which):
    if which in OTHER_OBJECTIVES:
        name = {"QuantizedELBO": "codes", "SupervisedELBO": "semi-supervised"}.get(
            which, "Gaussian"
        )
        objective = OTHER_OBJECTIVES[which](2)
    else:
        name, objective = "Gaussian", OBJECTIVES[which]()
    model, examples = copy.deepcopy(make_model(name))
    train(model, examples, objective)
