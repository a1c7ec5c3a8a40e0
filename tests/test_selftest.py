"""The statements of ``lowerbound selftest`` hold, and each one fails if its subject is broken."""

import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lowerbound.cli import main
from lowerbound.conditionals import Gaussian
from lowerbound.distributions import DiagonalNormal, FactorialBernoulli, divergence, normal
from lowerbound.errors import SettingsError
from lowerbound.evaluation import aggregate, chains, estimate, importance, pareto
from lowerbound.models import Draw, LatentModel
from lowerbound.objectives import ELBO, IWAE, Objective, Renyi
from lowerbound.objectives.importance import PowerMean
from lowerbound.runtime import noise
from lowerbound.selftest import CHECKS, Check, check, run_checks, run_each
from lowerbound.training.step import TrainingStep

THOROUGH = pytest.mark.skipif(
    "LOWERBOUND_THOROUGH" not in os.environ,
    reason="set LOWERBOUND_THOROUGH to run the checks that take minutes",
)


def maybe_thorough(name: str):
    return pytest.param(name, marks=THOROUGH if CHECKS[name].thorough else (), id=name)


@pytest.mark.parametrize("name", [maybe_thorough(name) for name in CHECKS])
def test_the_statement_holds(name):
    """All randomness is seeded; how often another seed would fail is said where the check is."""
    [outcome] = run_checks(only=[name])
    assert outcome.passed, outcome


# Mutations: what is broken, how, and which checks must see it

MUTATIONS = {}


def breaks(*red: str):
    """Decorator: a function that breaks the library, and the checks that must then fail."""

    def register(function):
        MUTATIONS[function.__name__] = (function, red)
        return function

    return register


def negated(function):
    return lambda *args, **kwargs: -function(*args, **kwargs)


# Densities and divergences


@breaks(
    "gaussian-kl",
    "gaussian-kl-sampled",
    "elbo-written-out",
    "elbo-below-by-the-divergence",
    "estimators-agree",
)
def the_gaussian_kl_has_the_wrong_sign(patch):
    patch.setattr(divergence, "_normal_unit_kl", negated(divergence._normal_unit_kl))


@breaks("gaussian-kl", "gaussian-kl-sampled", "elbo-written-out", "estimators-agree")
def the_gaussian_kl_goes_the_other_way(patch):
    original = divergence._normal_unit_kl
    patch.setattr(divergence, "_normal_unit_kl", lambda q, p: original(p, q))


@breaks("bernoulli-kl", "bernoulli-kl-sampled", "binary-elbo-gradient")
def the_bernoulli_kl_has_the_wrong_sign(patch):
    patch.setattr(divergence, "_bernoulli_unit_kl", negated(divergence._bernoulli_unit_kl))


@breaks(
    "gaussian-reads-mean-then-variance", "exact-posterior", "elbo-written-out", "probabilistic-pca"
)
def mean_and_log_variance_are_swapped(patch):
    original = Gaussian.from_parameters

    def swapped(self, raw):
        if self.scale != "network":
            return original(self, raw)
        first, second = raw.chunk(2, -self.event_dims)
        return original(self, torch.cat([second, first], -self.event_dims))

    patch.setattr(Gaussian, "from_parameters", swapped)


@breaks(
    "gaussian-reads-mean-then-variance", "exact-posterior", "probabilistic-pca", "factor-analysis"
)
def the_log_variance_is_taken_for_the_log_scale(patch):
    original = Gaussian._bound_log_scale
    patch.setattr(
        Gaussian, "_bound_log_scale", lambda self, log_variance: 2 * original(self, log_variance)
    )


@breaks(
    "gaussian-integrates-to-one",
    "gaussian-reads-mean-then-variance",
    "exact-posterior",
    "factor-analysis",
)
def the_gaussian_density_lacks_its_constant(patch):
    patch.setattr(normal, "_HALF_LOG_TWO_PI", 0.0)


@breaks("bernoulli-sums-to-one", "bernoulli-kl-sampled")
def the_bernoulli_density_lacks_its_normaliser(patch):
    patch.setattr(
        FactorialBernoulli,
        "log_prob",
        lambda self, x: (x * self.logits).flatten(-self.event_dims).sum(-1),
    )


@breaks("rank-ten", "elbo-written-out", "probabilistic-pca")
def the_reconstruction_is_averaged_over_dimensions(patch):
    original = DiagonalNormal.log_prob

    def averaged(self, value):
        return original(self, value) / self.event_shape.numel()

    patch.setattr(DiagonalNormal, "log_prob", averaged)


@breaks("exact-posterior", "elbo-written-out", "log-likelihood-exact")
def what_is_scored_is_another_sample_than_what_is_decoded(patch):
    original = LatentModel._draw_from

    def drawn(self, *args, **more):
        honest = original(self, *args, **more)
        return replace(honest, prior_term=lambda: honest.prior.log_prob(honest.z.roll(1, 0)) + 0.01)

    patch.setattr(LatentModel, "_draw_from", drawn)


# Bounds


@breaks(
    "probabilistic-pca",
    "elbo-written-out",
    "elbo-below-by-the-divergence",
    "reported-bound",
    "one-sample",
)
def the_elbo_adds_the_rate(patch):
    patch.setattr(ELBO, "bound", lambda self, draw: draw.log_likelihood.mean(0) + self.rate(draw))


@breaks("one-sample", "renyi-at-zero", "elbo-written-out", "reported-bound")
def the_elbo_never_samples_its_rate(patch):
    patch.setattr(
        ELBO, "bound", lambda self, draw: draw.log_likelihood.mean(0) - draw.analytic_rate
    )


@breaks(
    "rises-with-samples",
    "gap-of-many-samples",
    "groups-written-out",
    "binary-bound",
    "renyi-divergence",
)
def the_importance_weighted_bound_lacks_log_k(patch):
    original = PowerMean.value
    patch.setattr(
        PowerMean,
        "value",
        lambda self, log_w: original(self, log_w) + math.log(len(log_w) // self.groups),
    )


@breaks("groups-written-out")
def groups_are_taken_along_the_wrong_axis(patch):
    def grouped(self, log_w):
        return log_w.movedim(0, -1).reshape(self.groups, -1, log_w.shape[1])

    patch.setattr(PowerMean, "_group", grouped)


@breaks("groups-written-out", "decoder-gradient")
def weights_are_normalised_over_groups(patch):
    original = PowerMean._group
    patch.setattr(PowerMean, "_group", lambda self, log_w: original(self, log_w).transpose(0, 1))


@breaks("renyi-divergence", "reported-bound")
def the_order_of_renyi_has_the_wrong_sign(patch):
    patch.setattr(Renyi, "_make_power_means", lambda self: (PowerMean(-self.alpha),) * 2)


@breaks("reported-bound")
def an_objective_gives_its_surrogate(patch):
    patch.setattr(Objective, "__call__", lambda self, draw: self.surrogate(draw))


@breaks("reported-bound", "recorded-bound", "selection")
def the_terms_report_the_surrogate(patch):
    original = Objective.terms
    patch.setattr(
        Objective,
        "terms",
        lambda self, draw: original(self, draw) | {"bound": self.surrogate(draw)},
    )


# Gradients


@breaks("slope-of-the-bound")
def the_worst_samples_get_the_largest_weights(patch):
    def surrogate(self, draw):
        return ((-draw.log_w.detach()).softmax(0) * draw.log_w).sum(0)

    patch.setattr(IWAE, "surrogate", surrogate)


@breaks("decoder-gradient", "dreg-is-unbiased")
def normalised_weights_come_from_negative_log_weights(patch):
    original = PowerMean._normalise
    patch.setattr(PowerMean, "_normalise", lambda self, log_w: original(self, -log_w))


@breaks("sticking-the-landing", "signal-to-noise", "signal-to-noise-at-length")
def dreg_is_the_pathwise_gradient(patch):
    original = IWAE.surrogate

    def surrogate(self, draw):
        return self.bound(draw) if self.gradient == "dreg" else original(self, draw)

    patch.setattr(IWAE, "surrogate", surrogate)


@breaks("dreg-is-unbiased", "signal-to-noise")
def dreg_does_not_square_its_weights(patch):
    patch.setattr(PowerMean, "path_weights", lambda self, log_w: self.weights(log_w))


@breaks("sticking-the-landing", "sticking-is-biased-for-more", "dreg-is-unbiased")
def the_posterior_is_not_held(patch):
    patch.setattr(Draw, "log_q_stopgrad_parameters", property(lambda self: self.log_q))


@breaks("sticking-the-landing", "sticking-is-unbiased-for-one", "dreg-is-unbiased")
def the_held_posterior_is_another(patch):
    patch.setattr(
        DiagonalNormal,
        "stop_gradient",
        lambda self: DiagonalNormal(self.loc.detach(), self.log_scale.detach() + 0.3),
    )


@breaks("score-function", "binary-elbo-gradient")
def the_elbo_s_baseline_contains_the_sample_itself(patch):
    def scored(self, draw):
        sampled = self._is_sampled(draw)
        rates = draw.log_q.detach() - draw.log_prior
        signal = draw.log_likelihood.detach() - (rates.detach() if sampled else 0)
        explicit = draw.log_likelihood.mean(0) - (rates.mean(0) if sampled else self.rate(draw))
        return explicit + ((signal - signal.mean(0)) * draw.log_q).mean(0)

    patch.setattr(ELBO, "_score_function_surrogate", scored)


@breaks("vimco-is-unbiased", "vimco-gradient")
def vimco_s_baseline_contains_the_sample_itself(patch):
    def advantages(self, log_w):
        replaced = [
            torch.cat([log_w[:k], log_w.mean(0, keepdim=True), log_w[k + 1 :]])
            for k in range(len(log_w))
        ]
        return self.value(log_w) - torch.stack([self.value(entry) for entry in replaced])

    patch.setattr(PowerMean, "advantages", advantages)


@breaks("piwae-encoder")
def piwae_s_encoder_climbs_the_bound_of_all_samples(patch):
    patch.setattr(
        IWAE, "_make_power_means", lambda self: (PowerMean(0.0, self.groups, self.elbo_weight),) * 2
    )


@breaks("decoder-gradient", "reported-bound", "groups-written-out")
def piwae_s_decoder_climbs_the_bound_of_groups(patch):
    patch.setattr(
        IWAE,
        "_make_power_means",
        lambda self: (PowerMean(0.0, self.encoder_groups or self.groups, self.elbo_weight),) * 2,
    )


# Evaluation


def figures_changed(patch, change):
    original = importance.WeightSums.results
    patch.setattr(importance.WeightSums, "results", lambda self: change(self, original(self)))


@breaks(
    "log-likelihood-value",
    "log-likelihood-exact",
    "log-likelihood-written-out",
    "quadrature",
    "binary-likelihood",
)
def log_likelihood_is_negated(patch):
    figures_changed(patch, lambda self, known: known | {"log_likelihood": -known["log_likelihood"]})


@breaks(
    "log-likelihood-value",
    "log-likelihood-exact",
    "log-likelihood-written-out",
    "quadrature",
    "binary-likelihood",
)
def log_likelihood_lacks_log_k(patch):
    figures_changed(
        patch,
        lambda self, known: (
            known | {"log_likelihood": known["log_likelihood"] + math.log(self.samples)}
        ),
    )


@breaks("log-likelihood-written-out")
def the_effective_sample_size_is_not_squared(patch):
    figures_changed(patch, lambda self, known: known | {"effective": self.total / self.squares})


@breaks("sample-count", "log-likelihood-exact")
def one_sample_more_is_drawn_than_divided_by(patch):
    original = LatentModel._draw_from
    patch.setattr(
        LatentModel,
        "_draw_from",
        lambda self, parts, x, samples, *args, **more: original(
            self, parts, x, samples + 1, *args, **more
        ),
    )


@breaks("log-likelihood-exact", "chunks-and-batches")
def a_short_last_chunk_is_counted_twice(patch):
    original = importance.WeightSums.add

    def add(self, log_w):
        original(self, log_w)
        if len(log_w) < vars(self).setdefault("usual", len(log_w)):
            original(self, log_w)

    patch.setattr(importance.WeightSums, "add", add)


@breaks("chunks-and-batches")
def every_chunk_draws_anew(patch):
    @contextmanager
    def in_chunks():
        yield lambda: None

    patch.setattr(noise, "in_chunks", in_chunks)


@breaks(
    "examples-noise-is-their-own",
    "chunks-and-batches",
    "mean-over-examples",
    "log-likelihood-written-out",
)
def noise_does_not_belong_to_examples(patch):
    @contextmanager
    def per_example(seed, indices):
        yield

    patch.setattr(noise, "per_example", per_example)


@breaks("mean-over-examples")
def evaluate_averages_the_means_of_batches(patch):
    original = estimate.compute_dataset_terms

    def averaged(*args, batch_size=None, **kwargs):
        terms = original(*args, batch_size=batch_size, **kwargs)
        return {
            name: torch.stack([part.mean() for part in term.split(batch_size or 10)])
            for name, term in terms.items()
        }

    patch.setattr(estimate, "compute_dataset_terms", averaged)


@breaks("recorded-bound")
def fit_averages_the_means_of_batches(patch):
    original, examples_in_a_batch = TrainingStep._add_terms, 7 / 2

    def add(self, terms):
        original(
            self, {name: term / len(term) * examples_in_a_batch for name, term in terms.items()}
        )

    patch.setattr(TrainingStep, "_add_terms", add)


@breaks("pareto-shape")
def the_prior_of_pareto_s_shape_weighs_too_much(patch):
    patch.setattr(pareto, "_PRIOR_COUNT", 500.0)


@breaks("doubtful-weights")
def all_weights_are_trusted(patch):
    patch.setattr(
        importance.LikelihoodEstimate,
        "doubtful",
        property(lambda self: self.per_example > math.inf),
    )


@breaks("mutual-information")
def mutual_information_is_capped_by_a_batch(patch):
    patch.setattr(aggregate, "_MOST_COMPONENTS", 1024)


# Annealing


@breaks("annealing-evidence", "annealing-quadrature")
def the_temperatures_end_too_soon(patch):
    original = chains._choose_betas
    patch.setattr(chains, "_choose_betas", lambda count: [0.95 * beta for beta in original(count)])


@breaks("annealing-evidence")
def proposals_are_accepted_after_the_wrong_sign(patch):
    patch.setattr(
        chains.ChainState,
        "log_density",
        lambda self, beta: -self.log_prior - beta * self.log_likelihood,
    )


@breaks("annealing-evidence")
def no_proposal_is_ever_rejected(patch):
    patch.setattr(
        chains,
        "noise",
        SimpleNamespace(**vars(noise) | {"uniform": lambda *args, **kwargs: torch.tensor(-1.0)}),
    )


@breaks("annealing-gap")
def annealed_weights_lack_log_c(patch):
    original = chains.AnnealingPath.anneal

    def anneal(self, z, steps, *, down=False):
        known = original(self, z, steps, down=down)
        return known | {
            "log_likelihood": known["log_likelihood"] + (-1 if down else 1) * math.log(len(z))
        }

    patch.setattr(chains.AnnealingPath, "anneal", anneal)


@breaks("annealing-at-length")
def chains_never_move(patch):
    patch.setattr(
        chains.AnnealingPath,
        "transition",
        lambda self, state, beta, step: (state, torch.ones_like(state.log_prior)),
    )


# Training


@breaks("trained-linear-vae")
def the_rate_is_climbed_down_twice(patch):
    patch.setattr(
        ELBO, "surrogate", lambda self, draw: draw.log_likelihood.mean(0) - 2 * self.rate(draw)
    )


PAIRS = [(name, red) for name, (_, reds) in MUTATIONS.items() for red in reds]


@pytest.mark.parametrize(
    ("mutation", "name"),
    [
        pytest.param(
            mutation,
            name,
            marks=THOROUGH if CHECKS[name].thorough else (),
            id=f"{mutation}: {name}",
        )
        for mutation, name in PAIRS
    ],
)
def test_the_check_sees_the_mutation(mutation, name, monkeypatch):
    MUTATIONS[mutation][0](monkeypatch)
    [outcome] = run_checks(only=[name])
    assert not outcome.passed, outcome
    assert outcome.error is None, outcome  # it is seen by what was measured


def test_every_check_is_turned_red_by_some_mutation():
    assert {name for _, name in PAIRS} == CHECKS.keys()


# Running them


def broken_check(name: str = "broken", **settings) -> Check:
    return Check(name, "this holds", 1.0, **settings)


def test_a_check_leaves_torch_as_it_was(monkeypatch):
    def measure():
        torch.randn(5)
        return float(torch.get_num_threads() != 1 or not torch.is_grad_enabled())

    monkeypatch.setitem(CHECKS, "broken", replace(broken_check(measure=measure), tolerance=0.0))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    with torch.no_grad():
        [outcome] = run_checks(only=["broken"])
        assert not torch.is_grad_enabled()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert outcome.passed
    assert torch.equal(torch.get_rng_state(), state)


def test_a_check_measures_the_same_whichever_others_run():
    names = ["gaussian-kl-sampled", "estimators-agree", "exact-posterior"]
    together = {outcome.name: outcome.measured for outcome in run_checks(only=names)}
    torch.randn(3)
    assert all(run_checks(only=[name])[0].measured == together[name] for name in names)


@pytest.mark.parametrize("measured", [math.nan, math.inf, 1.5])
def test_what_is_not_a_small_number_does_not_hold(measured, monkeypatch):
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: measured))
    assert not run_checks(only=["broken"])[0].passed


def test_an_error_in_a_check_is_a_statement_that_does_not_hold(monkeypatch):
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: 1 / 0))
    [outcome] = run_checks(only=["broken"])
    assert not outcome.passed
    assert outcome.error == "ZeroDivisionError: division by zero"
    assert math.isnan(outcome.measured)


def test_thorough_checks_are_left_out_unless_asked_for(monkeypatch):
    kept = {
        "quick": broken_check("quick", measure=float),
        "slow": broken_check("slow", measure=float, thorough=True),
    }
    monkeypatch.setattr("lowerbound.selftest.registry.CHECKS", kept)
    assert [outcome.name for outcome in run_each()] == ["quick"]
    assert [outcome.name for outcome in run_each(thorough=True)] == ["quick", "slow"]
    assert [outcome.name for outcome in run_each(only=["slow"])] == ["slow"]


def test_names_are_taken_once_and_unknown_ones_refused():
    with pytest.raises(ValueError, match="two checks are called 'gaussian-kl'"):
        check("gaussian-kl", "again", tolerance=0)(float)
    with pytest.raises(
        SettingsError, match=r"'gausian-kl' is not a check; did you mean 'gaussian-kl'\?"
    ):
        run_checks(only=["gausian-kl"])


def test_every_statement_is_said_once_and_a_statistical_one_says_how_often_it_errs():
    assert len({entry.statement for entry in CHECKS.values()}) == len(CHECKS)
    for entry in CHECKS.values():
        assert entry.measure.__doc__, entry.name
        assert entry.statement[0].isupper() or entry.statement.startswith("log_likelihood"), (
            entry.name
        )
        if "standard errors)" in entry.statement or (
            " draws)" in entry.statement and entry.tolerance > 1
        ):
            assert "by chance it fails for" in entry.measure.__doc__.lower(), entry.name


# The command


def call(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["selftest", *arguments])
    return ended.value.code, *capsys.readouterr()


def test_the_command_says_each_statement_and_how_many_hold(capsys):
    code, out, err = call(capsys, "--only", "gaussian-kl", "--only", "one-sample")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert len(lines) == 3
    assert lines[0].startswith(
        "✓ The closed-form KL between diagonal Gaussians equals torch's (gaussian-kl): "
    )
    assert "(at most 1e-10), " in lines[0]
    assert lines[-1] == "2 of 2 statements hold"


def test_the_command_names_what_does_not_hold(capsys, monkeypatch):
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: 3.0))
    monkeypatch.setitem(CHECKS, "raises", broken_check("raises", measure=lambda: 1 / 0))
    code, out, _ = call(capsys, "--only", "broken", "--only", "raises", "--only", "gaussian-kl")
    assert code == 1
    assert "✗ this holds (broken): 3 (at most 1), 0.0 s" in out
    assert "✗ this holds (raises): ZeroDivisionError: division by zero, 0.0 s" in out
    assert "1 of 3 statements hold" in out
    assert "these do not: broken, raises" in out


def test_the_command_prints_one_object(capsys, monkeypatch):
    code, out, _ = call(capsys, "--json", "--only", "gaussian-kl")
    report = json.loads(out)
    assert (code, report["passed"]) == (0, True)
    [entry] = report["checks"]
    assert entry.keys() == {"name", "statement", "measured", "tolerance", "passed", "seconds"}
    assert entry["passed"]
    assert entry["measured"] <= entry["tolerance"] == 1e-10
    assert report["versions"]["torch"] == torch.__version__
    assert {"lowerbound", "python", "numpy", "scipy", "scikit-learn"} < report["versions"].keys()
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: math.nan))
    code, out, _ = call(capsys, "--json", "--only", "broken")
    assert code == 1
    assert json.loads(out)["checks"][0]["measured"] is None


def test_a_wrong_name_ends_with_the_nearest(capsys):
    code, out, err = call(capsys, "--only", "vimco-gradiant")
    assert (code, out) == (2, "")
    message = "'vimco-gradiant' is not a check; did you mean 'vimco-gradient'?"
    assert err == f"lowerbound: selftest: {message}\n"


def test_the_help_needs_no_torch():
    code = (
        "import sys\nfrom lowerbound.cli import main\n"
        "try:\n    main(['selftest', '--help'])\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "--thorough" in shown
