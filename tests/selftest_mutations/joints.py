"""Mutations of log joints: their supports, batches, starting points, and draws by weight."""

import numpy as np
import torch
from torch.distributions import transforms

from lowerbound.conditionals.bijections import CorrelationFactor, StickBreaking
from lowerbound.conditionals.variables import Variables
from lowerbound.models import LogJoint, pathfinder, resampling
from lowerbound.models.variable_posterior import VariablePosterior

from . import breaks


@breaks("constrained-density")
def the_log_determinant_is_left_out(patch):
    original = Variables.values

    def values(self, free):
        found, log_det = original(self, free)
        return found, 0 * log_det

    patch.setattr(Variables, "values", values)


@breaks("constrained-density", "log-joint-evidence")
def the_spread_is_not_in_the_log_determinant(patch):
    def values(self, u):
        return self.variables.values(self.centre + self.spread * u)

    patch.setattr(VariablePosterior, "values", values)


@breaks("bijections", "constrained-density")
def the_last_share_is_not_in_the_log_determinant(patch):
    original = StickBreaking.log_abs_det_jacobian
    patch.setattr(
        StickBreaking,
        "log_abs_det_jacobian",
        lambda self, x, y: original(self, x, y) - y[..., -1].log(),
    )


@breaks("bijections", "constrained-density")
def correlations_have_the_wrong_log_determinant(patch):
    original = CorrelationFactor.log_abs_det_jacobian
    patch.setattr(
        CorrelationFactor, "log_abs_det_jacobian", lambda self, x, y: 0.9 * original(self, x, y)
    )


@breaks("small-shares")
def shares_are_computed_by_torch(patch):
    patch.setattr(StickBreaking, "_call", transforms.StickBreakingTransform._call)


@breaks("log-joint-in-batches")
def batches_are_not_scaled(patch):
    original = LogJoint._log_joint

    def log_joint(self, u, batch):
        return original(self, u, (batch[0], 1.0) if batch else batch)

    patch.setattr(LogJoint, "_log_joint", log_joint)


@breaks("pathfinder-gaussian")
def pathfinder_s_log_determinant_is_halved(patch):
    original = pathfinder.CurvedGaussian.draw

    def draw(self, noise):
        draws, log_q = original(self, noise)
        return draws, log_q + 0.5 * np.log(self.alpha).sum()

    patch.setattr(pathfinder.CurvedGaussian, "draw", draw)


@breaks("pathfinder-gaussian")
def pathfinder_forgets_its_oldest_pair(patch):
    original = pathfinder._make_gaussian

    def make(point, gradient, alpha, memory):
        return original(point, gradient, alpha, list(memory)[-2:])

    patch.setattr(pathfinder, "_make_gaussian", make)


@breaks("start", "pathfinder-gaussian")
def start_uses_variances_as_standard_deviations(patch):
    original = pathfinder.CurvedGaussian.variance.fget
    patch.setattr(pathfinder.CurvedGaussian, "variance", property(lambda self: original(self) ** 2))


@breaks("copies-by-weight")
def draws_are_chosen_at_random(patch):
    patch.setattr(
        resampling,
        "choose_systematically",
        lambda log_w, count: log_w.softmax(0).multinomial(count, replacement=True),
    )


@breaks("copies-by-weight", "resampled-draws")
def draws_are_chosen_by_the_root_of_their_weight(patch):
    original = resampling.choose_systematically
    patch.setattr(
        resampling, "choose_systematically", lambda log_w, count: original(0.5 * log_w, count)
    )


@breaks("resampled-draws")
def draws_are_chosen_without_replacement(patch):
    def choose(log_w, count):
        gumbel = -(-torch.rand_like(log_w).log()).log()
        return (log_w + gumbel).topk(count).indices

    patch.setattr(resampling, "choose_systematically", choose)
