"""Mutations of training and coordinate ascent."""

import math

import torch

from lowerbound.ascent import KnownGaussian, MeanAndPrecision, NormalWishart, regression
from lowerbound.objectives import ELBO
from lowerbound.selftest import weights
from lowerbound.training import optim, preparing
from lowerbound.training.autostop import AutoStop
from lowerbound.training.step import TrainingStep

from . import breaks

# Training


@breaks("recorded-bound")
def fit_averages_the_means_of_batches(patch):
    original, examples_in_a_batch = TrainingStep._add_terms, 7 / 2

    def add(self, terms):
        original(
            self, {name: term / len(term) * examples_in_a_batch for name, term in terms.items()}
        )

    patch.setattr(TrainingStep, "_add_terms", add)


@breaks("trained-linear-vae")
def the_rate_is_subtracted_twice(patch):
    patch.setattr(
        ELBO, "surrogate", lambda self, draw: draw.log_likelihood.mean(0) - 2 * self.rate(draw)
    )


@breaks("steps-written-out")
def the_warm_up_is_one_step_longer(patch):
    original = optim.make_schedule
    for module in (optim, preparing):
        patch.setattr(
            module,
            "make_schedule",
            lambda schedule, warmup, total: original(schedule, warmup + 1, total),
            raising=False,
        )


@breaks("steps-written-out")
def gradients_are_not_clipped(patch):
    patch.setattr(TrainingStep, "_clip", lambda *args: None)


# Averages


@breaks("averages-written-out")
def an_equal_average_weighs_new_values_too_little(patch):
    def average(model, decay):
        averaged = optim.average_weights(model, decay)
        original = averaged.multi_avg_fn
        averaged.multi_avg_fn = lambda means, values, count: original(means, values, count + 1)
        return averaged

    patch.setattr(weights, "average_weights", average)


@breaks("averages-written-out")
def an_exponential_average_has_another_decay(patch):
    def average(model, decay):
        return optim.average_weights(model, None if decay is None else 0.9 * decay)

    patch.setattr(weights, "average_weights", average)


@breaks("best-average")
def the_last_average_is_kept(patch):
    original = AutoStop._measure_gain

    def gain(self, *args):
        found, error = original(self, *args)
        return abs(found), error

    patch.setattr(AutoStop, "_measure_gain", gain)


# Coordinate ascent


@breaks("ascent-known-gaussian")
def the_bound_of_a_known_gaussian_lacks_its_constant(patch):
    original = KnownGaussian.expected_log_joint
    patch.setattr(
        KnownGaussian,
        "expected_log_joint",
        lambda self, factors, x: (
            original(self, factors, x) + 0.5 * len(self.mean) * math.log(2 * math.pi)
        ),
    )


@breaks("ascent-evidence")
def the_evidence_lacks_the_prior_s_strength(patch):
    original = MeanAndPrecision.log_evidence
    patch.setattr(
        MeanAndPrecision,
        "log_evidence",
        lambda self, x: original(self, x) - 0.5 * math.log(self.strength),
    )


@breaks("ascent-regression")
def a_gamma_density_lacks_its_normaliser(patch):
    original = regression.expected_gamma_log_prob
    patch.setattr(
        regression,
        "expected_gamma_log_prob",
        lambda q, concentration, rate: (
            original(q, concentration, rate) + math.lgamma(concentration)
        ),
    )


@breaks("ascent-mixture")
def the_expected_log_determinant_is_off_by_one(patch):
    def expected(self):
        size = self.mean.shape[1]
        half = 0.5 * (self.freedom[:, None] - torch.arange(1, size + 1, dtype=self.mean.dtype))
        return torch.digamma(half + 1).sum(1) + size * math.log(2) - self.inverse_scale.logdet()

    patch.setattr(NormalWishart, "expected_log_det", property(expected))
