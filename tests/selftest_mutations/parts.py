"""Mutations of likelihoods, of models with layers, labels and codes, and of penalties."""

import torch
from torch.nn.functional import logsigmoid

from lowerbound.conditionals import quantized
from lowerbound.conditionals.unit_interval import Beta
from lowerbound.distributions import continuous_bernoulli, one_hot, sphere
from lowerbound.distributions.counts import FactorialPoisson
from lowerbound.distributions.one_hot import RelaxedOneHot
from lowerbound.distributions.rescaled import Rescaled
from lowerbound.distributions.zeros import HurdleDistribution
from lowerbound.evaluation import factor_scores
from lowerbound.models import merging
from lowerbound.models.enumerated import _Sums
from lowerbound.models.label_terms import LabelTerms
from lowerbound.objectives import dip, discrepancy, total_correlation

from . import breaks

# Likelihoods


@breaks("likelihoods-sum-to-one")
def a_hurdle_does_not_exclude_its_likelihood_s_zeros(patch):
    patch.setattr(HurdleDistribution, "log_share", property(lambda self: logsigmoid(-self.gate)))


@breaks("likelihoods-sum-to-one", "likelihoods-as-in-scipy")
def standardised_data_lack_their_jacobian(patch):
    patch.setattr(
        Rescaled,
        "log_prob",
        lambda self, value: self.base.log_prob((value - self.centre) / self.spread),
    )


@breaks("likelihoods-as-in-scipy")
def a_beta_likelihood_exchanges_its_concentrations(patch):
    original = Beta.make_distribution
    patch.setattr(Beta, "make_distribution", lambda self, loc, scale: original(self, -loc, scale))


@breaks("likelihoods-draws")
def poisson_draws_are_too_large(patch):
    original = FactorialPoisson.sample
    patch.setattr(
        FactorialPoisson,
        "sample",
        lambda self, size=(): original(FactorialPoisson(self.log_mean + 0.1, 1), size),
    )


@breaks("likelihoods-gradients")
def a_normaliser_has_no_gradient(patch):
    original = continuous_bernoulli._find_log_sinhc
    patch.setattr(continuous_bernoulli, "_find_log_sinhc", lambda h: original(h).detach())


# Distributions of latents


@breaks("one-hot-codes")
def the_kl_of_one_hot_codes_swaps_its_arguments(patch):
    original = one_hot.compute_unit_kl
    patch.setattr(one_hot, "compute_unit_kl", lambda q, p: original(p, q))


@breaks("one-hot-codes")
def a_relaxed_code_has_one_temperature_too_many(patch):
    original = RelaxedOneHot.log_prob
    patch.setattr(RelaxedOneHot, "log_prob", lambda self, x: original(self, x) + self.temperature)


@breaks("sphere")
def the_area_of_the_sphere_is_the_volume_of_the_ball(patch):
    original = sphere.compute_log_area
    patch.setattr(sphere, "compute_log_area", lambda size: original(size) - 1.0986)


# Models


@breaks("top-down-layers")
def a_posterior_is_not_multiplied_with_its_prior(patch):
    patch.setitem(merging._RELATE, "product", lambda q, prior: q)


@breaks("labels-summed-out")
def a_known_label_is_summed_out(patch):
    def sum_labels_out(self):
        return (self.log_likelihood + self.log_prior - self.log_q).logsumexp(-1)

    patch.setattr(LabelTerms, "sum_labels_out", sum_labels_out)


@breaks("enumerated-latents")
def an_exact_expectation_is_a_mean_over_states(patch):
    original = _Sums.expect
    patch.setattr(_Sums, "expect", lambda self, name: original(self, name) / len(self.log_q_SB))


@breaks("quantised-codes")
def codes_are_the_vectors_of_largest_product(patch):
    patch.setattr(quantized, "find_nearest", lambda x, table: (x @ table.mT).argmax(-1))


# Penalties and scores


@breaks("total-correlation-parts")
def other_examples_are_weighted_as_in_a_sample_with_replacement(patch):
    def compute_log_weights(batch, size):
        return torch.full((batch, batch), 1 / batch, dtype=torch.float64).log()

    patch.setattr(total_correlation, "compute_log_weights", compute_log_weights)


@breaks("moments-of-the-aggregate")
def the_aggregate_s_covariance_has_deviations(patch):
    patch.setattr(dip, "_average_covariance", lambda q: q.stddev.mean(0).diag())


@breaks("moments-of-the-aggregate")
def the_discrepancy_has_wider_kernels(patch):
    original = discrepancy._average_kernels
    patch.setattr(
        discrepancy,
        "_average_kernels",
        lambda distance, kernel, widths: original(0.5 * distance, kernel, widths),
    )


@breaks("scores-of-factors")
def a_gap_is_between_the_largest_and_the_smallest_score(patch):
    patch.setattr(factor_scores, "compute_gaps", lambda scores: scores.max(0) - scores.min(0))
