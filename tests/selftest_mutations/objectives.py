"""Mutations of the values and the gradients of objectives."""

import math

import torch

from lowerbound.distributions import DiagonalNormal
from lowerbound.models import Draw
from lowerbound.objectives import ELBO, IWAE, Objective, Renyi, factor
from lowerbound.objectives.importance import PowerMean
from lowerbound.objectives.schedules import Ramp

from . import breaks

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
def the_posterior_has_no_stop_gradient(patch):
    patch.setattr(Draw, "log_q_stopgrad_parameters", property(lambda self: self.log_q))


@breaks("sticking-the-landing", "sticking-is-unbiased-for-one", "dreg-is-unbiased")
def the_stop_gradient_changes_the_posterior(patch):
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
def piwae_s_encoder_maximises_the_bound_of_all_samples(patch):
    patch.setattr(
        IWAE, "_make_power_means", lambda self: (PowerMean(0.0, self.groups, self.elbo_weight),) * 2
    )


@breaks("decoder-gradient", "reported-bound", "groups-written-out")
def piwae_s_decoder_maximises_the_bound_of_groups(patch):
    patch.setattr(
        IWAE,
        "_make_power_means",
        lambda self: (PowerMean(0.0, self.encoder_groups or self.groups, self.elbo_weight),) * 2,
    )


# Penalties, schedules and orders


@breaks("penalised-gradient")
def free_bits_ignore_beta(patch):
    def penalty(self, draw, rate):
        if not self._frees_bits:
            return self._weight(rate) * rate
        units = draw.unit_rates
        return torch.where(units.mean(0) > self.free_bits, units, self.free_bits).sum(1)

    patch.setattr(ELBO, "_penalty", penalty)


@breaks("penalised-gradient")
def a_rate_below_the_capacity_is_pushed_down(patch):
    original = ELBO._weight
    patch.setattr(ELBO, "_weight", lambda self, rate: abs(original(self, rate)))


@breaks("ramps")
def a_ramp_begins_at_zero(patch):
    original = Ramp.at
    patch.setattr(Ramp, "at", lambda self, step, epoch: original(self, step, epoch) - self.start)


@breaks("orders-near-one")
def orders_near_one_use_the_formula_of_even_weights(patch):
    def choose(self, small, large, *log_w):
        order = 1 - self.alpha
        return small(order, *log_w) if abs(order) < 0.1 else large(order, *log_w)

    patch.setattr(PowerMean, "_choose_by_order", choose)


@breaks("orders-near-one")
def the_order_is_off_by_a_hundredth(patch):
    patch.setattr(
        Renyi, "_make_power_means", lambda self: (PowerMean(0.97 * self.alpha + 0.005),) * 2
    )


@breaks("other-numbers-of-samples")
def other_numbers_of_samples_lose_the_groups(patch):
    patch.setattr(IWAE, "with_samples", lambda self, samples: IWAE(samples))


@breaks("total-correlation")
def units_are_permuted_together(patch):
    def permute(z):
        order = torch.randperm(z.shape[1])
        return z.flatten(2)[:, order]

    patch.setattr(factor, "permute_units", permute)


@breaks("total-correlation")
def the_critic_learns_from_draws_only(patch):
    patch.setattr(
        factor.FactorVAE,
        "losses",
        lambda self, draw: {
            "critic": torch.nn.functional.softplus(-self._logits(draw.z.detach())).mean(0)
        },
    )
