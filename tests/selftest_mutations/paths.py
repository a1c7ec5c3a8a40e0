"""Mutations of the parts of log q's gradient, and of hierarchies of latents."""

from dataclasses import replace

import torch

from lowerbound.models import draw as draws
from lowerbound.models import groups, joint, joint_posterior, latent

from . import breaks


@breaks("parts-of-the-score")
def a_flow_has_no_stop_gradient(patch):
    for module in (latent, joint_posterior):
        original = module.score_through_z

        def score(q, posterior, z, original=original):
            if hasattr(q, "transform"):
                return q.log_prob(z)
            return original(q, posterior, z)

        patch.setattr(module, "score_through_z", score)


@breaks("parts-of-the-score")
def the_point_of_a_log_joint_has_no_stop_gradient(patch):
    original = joint.draw_for_each

    def draw_for_each(*args):
        drawn = original(*args)
        return replace(drawn, stopgrad_z_term=drawn.posterior_term)

    patch.setattr(joint, "draw_for_each", draw_for_each)


@breaks("layers-with-exact-posterior", "layers-rate")
def the_last_group_is_left_out(patch):
    patch.setattr(draws, "_sum", lambda terms: terms[0])


@breaks("layers-rate")
def a_rate_is_summed_over_draws(patch):
    def analytic_rate(self):
        rates = self.draw_rates
        return rates if rates is None or rates.dim() == 1 else rates.sum(0)

    patch.setattr(groups.Latent, "analytic_rate", property(analytic_rate))


@breaks("layers-gradient")
def paths_through_later_latents_are_counted_twice(patch):
    def total_gradients(value, latents):
        return list(torch.autograd.grad(value.sum(), latents, retain_graph=True))

    patch.setattr(draws, "partial_gradients", total_gradients)
    patch.setattr(groups, "partial_gradients", total_gradients)
