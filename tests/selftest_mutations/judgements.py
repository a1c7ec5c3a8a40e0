"""Mutations of gaps, verdicts, information, intervals, and when annealing is doubtful."""

import math

import torch

from lowerbound.evaluation import aggregate, intervals, pareto, posterior
from lowerbound.evaluation.annealed_estimate import AnnealedEstimate
from lowerbound.evaluation.chains import AnnealingPath
from lowerbound.evaluation.comparison import Difference
from lowerbound.evaluation.gaps import Gaps
from lowerbound.evaluation.group_health import CodeUse, GroupHealth
from lowerbound.evaluation.search import Search

from . import breaks

# Gaps


@breaks("inference-gaps")
def the_search_finds_nothing(patch):
    patch.setattr(Search, "_maximise", lambda self, start, batch: start)


@breaks("inference-gaps")
def the_gaps_are_swapped(patch):
    patch.setattr(Gaps, "approximation", Gaps.amortisation)


@breaks("gaps-count-each-draw-once")
def both_proposals_share_their_noise(patch):
    original = Search._using_noise

    def using_noise(self, rows, *purpose):
        if purpose[0] == "weigh":
            purpose = ("weigh", 0, purpose[2])
        return original(self, rows, *purpose)

    patch.setattr(Search, "_using_noise", using_noise)


# Verdicts on posteriors


def change_health(patch, change):
    original = posterior.PosteriorHealth
    patch.setattr(posterior, "PosteriorHealth", lambda **known: original(**known | change(known)))


@breaks("posterior-health-errors")
def the_bound_s_error_lacks_the_root_of_the_draws(patch):
    change_health(
        patch, lambda known: {"elbo_error": known["elbo_error"] * math.sqrt(known["samples"])}
    )


@breaks("posterior-health-errors")
def the_evidence_s_error_lacks_its_second_term(patch):
    change_health(
        patch, lambda known: {"log_evidence_error": math.sqrt(1 / known["effective_samples"])}
    )


@breaks("posterior-health-errors")
def effective_samples_are_not_squared(patch):
    change_health(patch, lambda known: {"effective_samples": math.sqrt(known["effective_samples"])})


@breaks("posterior-health-values")
def the_bound_of_a_verdict_is_its_evidence(patch):
    change_health(patch, lambda known: {"elbo": known["log_evidence"]})


@breaks("posterior-health-values")
def the_evidence_of_a_verdict_lacks_a_constant(patch):
    change_health(patch, lambda known: {"log_evidence": known["log_evidence"] + 0.1})


# Information


@breaks("information")
def a_draw_s_own_example_is_left_out(patch):
    original = aggregate._regress

    def regress(y, t, known, rows):
        return original(y + math.log(1 - 1 / len(known)), t, known, rows)

    patch.setattr(aggregate, "_regress", regress)


@breaks("information")
def marginals_lack_the_number_of_examples(patch):
    patch.setattr(
        GroupHealth,
        "total_correlation",
        property(lambda self: self.aggregate_kl + self.marginal_kl),
    )


@breaks("information-error")
def the_draws_of_an_example_count_as_independent(patch):
    original = aggregate._regress

    def regress(y, t, known, rows):
        mean, error = original(y, t, known, rows)
        return mean, error / math.sqrt(len(y) / len(known))

    patch.setattr(aggregate, "_regress", regress)


@breaks("information-error")
def the_information_s_error_is_a_variance(patch):
    original = aggregate._regress

    def regress(*args):
        mean, error = original(*args)
        return mean, error**2

    patch.setattr(aggregate, "_regress", regress)


@breaks("codes")
def perplexity_is_in_bits(patch):
    original = CodeUse.perplexity.fget
    patch.setattr(CodeUse, "perplexity", property(lambda self: 2 ** original(self).log()))


# Intervals and tails


@breaks("student-interval")
def student_s_interval_has_one_degree_of_freedom_more(patch):
    original = intervals.stdtrit
    patch.setattr(intervals, "stdtrit", lambda freedom, level: original(freedom + 1, level))


@breaks("bootstrap-interval")
def the_bootstrap_is_reflected(patch):
    original = intervals._studentised_means
    patch.setattr(intervals, "_studentised_means", lambda *args: -original(*args))


@breaks("bootstrap-interval", "interval-coverage")
def only_student_s_interval_is_used(patch):
    patch.setattr(intervals, "_FEWEST_FOR_RESAMPLING", 1000)


@breaks("paired-difference")
def a_shortfall_raises_no_doubt(patch):
    patch.setattr(Difference, "_doubts", lambda self, first, second: iter(()))


@breaks("paired-difference")
def a_difference_is_certain_if_it_includes_zero(patch):
    patch.setattr(Difference, "excludes_zero", True)


@breaks("pareto-shape-known")
def the_prior_of_k_hat_counts_two_more(patch):
    patch.setattr(pareto, "_PRIOR_COUNT", 12.0)


@breaks("pareto-shape-known")
def k_hat_is_pulled_towards_one(patch):
    original = pareto.pareto_shape
    change = 0.5 * pareto._PRIOR_COUNT

    def shape(largest_log_w):
        count = len(largest_log_w) - 1
        return original(largest_log_w) + change / (count + 2 * change)

    patch.setattr(pareto, "pareto_shape", shape)


@breaks("pareto-shape-known")
def the_quartile_of_k_hat_is_the_next_value(patch):
    patch.setattr(pareto, "int", lambda value: math.floor(value) + 1, raising=False)


@breaks("pareto-shape-known")
def the_tail_of_k_hat_is_one_longer(patch):
    original = pareto.tail_length
    patch.setattr(pareto, "tail_length", lambda samples: original(samples) + 1)


@breaks("pareto-shape-known")
def a_larger_k_hat_counts_as_reliable(patch):
    original = pareto.reliable_shape
    patch.setattr(pareto, "reliable_shape", lambda samples: original(samples) + 0.02)


# Annealing


@breaks("annealing-written-out")
def effective_chains_are_not_squared(patch):
    original = AnnealingPath.anneal

    def anneal(self, z, steps, *, down=False):
        known = original(self, z, steps, down=down)
        return known | {"effective": known["effective"].sqrt()}

    patch.setattr(AnnealingPath, "anneal", anneal)


@breaks("annealing-written-out")
def halves_are_the_same_chains(patch):
    original = AnnealingPath.anneal

    def anneal(self, z, steps, *, down=False):
        known = original(self, z, steps, down=down)
        return known | {"second half": known["first half"]}

    patch.setattr(AnnealingPath, "anneal", anneal)


@breaks("annealing-shortfall")
def the_shortfall_is_the_mean_growth(patch):
    patch.setattr(
        AnnealedEstimate,
        "shortfall",
        property(lambda self: self.growth.mean if self.growth else 0.0),
    )


@breaks("annealing-shortfall")
def the_growth_is_negated(patch):
    original = AnnealedEstimate.growth.fget

    def growth(self):
        found = original(self)
        return found and type(found)(-found.per_example)

    patch.setattr(AnnealedEstimate, "growth", property(growth))


@breaks("annealing-doubt")
def annealed_estimates_are_never_doubtful(patch):
    patch.setattr(
        AnnealedEstimate,
        "doubtful",
        property(lambda self: torch.zeros_like(self.per_example, dtype=torch.bool)),
    )
