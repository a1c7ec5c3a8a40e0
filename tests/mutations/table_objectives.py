"""Mutations of the objectives: bounds, penalties and gradients."""

from __future__ import annotations

from mutation import Mutation

ELBO, IMPORTANCE = "objectives/elbo.py", "objectives/importance.py"
FACTOR, SCHEDULES = "objectives/factor.py", "objectives/schedules.py"
CRITICS = "objectives/critics.py"

MUTATIONS = [
    Mutation(
        "objectives/base.py",
        "return self.bound(draw).detach() + (surrogate - surrogate.detach())",
        "return surrogate",
        "The reported value is the surrogate instead of the bound.",
    ),
    Mutation(
        ELBO,
        "rate = (draw.log_q_stopgrad_parameters - draw.log_prior).mean(0)",
        "rate = (draw.log_q - draw.log_prior).mean(0)",
        "Sticking the landing is the pathwise gradient.",
    ),
    Mutation(
        ELBO,
        "freed = torch.where(units.mean(0) > least, units, least)",
        "freed = torch.where(units > least, units, least)",
        "Free bits are free for each example instead of the mean over the batch.",
    ),
    Mutation(
        ELBO,
        "return get_value(self.beta) * freed.flatten(1).sum(1)",
        "return freed.flatten(1).sum(1)",
        "Free bits ignore beta.",
    ),
    Mutation(
        ELBO,
        "(rate.detach().mean() - get_value(self.capacity)).sign()",
        "(rate.detach() - get_value(self.capacity)).sign()",
        "The capacity is compared with the rate of each example instead of the mean.",
    ),
    Mutation(
        ELBO,
        "return self._weight(rate) * rate\n",
        "return rate\n",
        "The penalty ignores beta and the capacity.",
    ),
    Mutation(
        ELBO,
        "            signal = signal - self._weight(rate) * rates.detach()\n",
        "            signal = signal - rates.detach()\n",
        "The score-function gradient of a sampled rate ignores beta.",
    ),
    Mutation(
        ELBO,
        "signal = signal - self._weight(rate) * by_draws",
        "signal = signal - by_draws",
        "The score-function gradient of rates of groups ignores beta.",
    ),
    Mutation(
        ELBO,
        "others = (signal.sum(0) - signal) / (self.samples - 1)",
        "others = signal.mean(0)",
        "The baseline of a sample contains the sample itself.",
    ),
    Mutation(
        ELBO,
        "return explicit + ((signal - others) * draw.log_q).mean(0)",
        "return ((signal - others) * draw.log_q).mean(0)",
        "The score-function gradient gives the decoder no gradient.",
    ),
    Mutation(
        ELBO,
        "rate, by_draws = rate + rates.mean(0), by_draws + rates.detach()",
        "rate, by_draws = rate + rates.mean(0), by_draws",
        "The score-function gradient ignores that a group's rate depends on other draws.",
    ),
    Mutation(
        IMPORTANCE,
        "return (total - math.log(log_w.shape[1])) / order",
        "return (total - math.log(log_w.shape[1] + 1)) / order",
        "A power mean divides by one sample too many.",
    ),
    Mutation(
        IMPORTANCE,
        "_LARGEST_EXPONENT = 1.0",
        "_LARGEST_EXPONENT = 1e9",
        "Near alpha = 1 exponentials overflow.",
    ),
    Mutation(
        IMPORTANCE,
        "_SMALL_ORDER = 0.1",
        "_SMALL_ORDER = 1e-30",
        "Near alpha = 1 the logarithm of a mean near 1 is divided by almost 0.",
    ),
    Mutation(
        IMPORTANCE,
        "_LEAST_ORDER = 1e-12",
        "_LEAST_ORDER = 1e-2",
        "A schedule that reaches alpha = 1 stops at 0.99.",
    ),
    Mutation(
        IMPORTANCE,
        "blended = self.elbo_weight * of_elbo + (1 - self.elbo_weight) * of_power",
        "blended = self.elbo_weight * of_power + (1 - self.elbo_weight) * of_elbo",
        "CIWAE exchanges its two bounds.",
    ),
    Mutation(
        IMPORTANCE,
        "self.alpha * share_MGB + (1 - self.alpha) * share_MGB.square()",
        "share_MGB.square()",
        "The doubly reparameterised gradient of Rényi bounds is that of IWAE.",
    ),
    Mutation(
        IMPORTANCE,
        "of_elbo_MGB = (log_w_MGB - others_MGB) / count",
        "of_elbo_MGB = log_w_MGB - others_MGB",
        "The ELBO's part of an advantage is not divided by the number of samples.",
    ),
    Mutation(
        IMPORTANCE,
        "((own.sum(1, keepdim=True) - own + stand_in) / count)",
        "((own.sum(1, keepdim=True) + stand_in) / count)",
        "Near alpha = 1 an advantage adds the stand-in without removing the weight.",
    ),
    Mutation(
        IMPORTANCE,
        "total = torch.logaddexp(torch.logaddexp(before, after), order * others)",
        "total = torch.logaddexp(before, after)",
        "An advantage removes a weight without the stand-in.",
    ),
    Mutation(
        IMPORTANCE,
        "power_KB = of_groups_MGB.flatten(0, 1) / self.groups",
        "power_KB = of_groups_MGB.flatten(0, 1)",
        "The weights of several groups sum to their number.",
    ),
    Mutation(
        IMPORTANCE,
        "self.elbo_weight / len(log_w_KB) + (1 - self.elbo_weight) * power_KB",
        "self.elbo_weight / len(log_w_KB) + power_KB",
        "The weights of CIWAE sum to more than 1.",
    ),
    Mutation(
        IMPORTANCE,
        "(finite_MGB.sum(1, keepdim=True) - finite_MGB) / (log_w_MGB.shape[1] - 1)",
        "finite_MGB.mean(1, keepdim=True).expand_as(finite_MGB)",
        "The stand-in of a weight contains the weight itself.",
    ),
    Mutation(
        IMPORTANCE,
        "amax(1, keepdim=True) + 2.5 * math.log(",
        "amax(1, keepdim=True) + 0.1 * math.log(",
        "Samples whose weight matters are left out.",
    ),
    Mutation(
        IMPORTANCE,
        "_NEGLIGIBLE = 1e-20",
        "_NEGLIGIBLE = 1e-1",
        "Small weights of the model's gradient are raised.",
    ),
    Mutation(
        IMPORTANCE,
        "joint_KB = torch.where(joint_KB.isfinite(), joint_KB, torch.zeros_like(joint_KB))",
        "joint_KB = joint_KB + 0.0",
        "A sample of zero weight turns the gradient into nan.",
    ),
    Mutation(
        IMPORTANCE,
        "(model_KB * joint_KB + (signal_KB - posterior_KB) * draw.log_q)",
        "(model_KB * joint_KB + signal_KB * draw.log_q)",
        "The score-function gradient lacks the dependence of the weight on q.",
    ),
    Mutation(
        IMPORTANCE,
        'posterior.path_weights(log_w_KB) if self.gradient == "dreg" else posterior_KB',
        "posterior_KB",
        "The doubly reparameterised gradient is sticking the landing.",
    ),
    Mutation(
        IMPORTANCE,
        "surrogate = surrogate - (posterior_KB * draw.log_q_stopgrad_z).sum(0)",
        "surrogate = surrogate - (model_KB * draw.log_q_stopgrad_z).sum(0)",
        "The score of PIWAE's encoder has the decoder's weights.",
    ),
    Mutation(
        IMPORTANCE,
        "return replace(self, samples=samples, encoder_groups=None)",
        "return replace(self, samples=samples, encoder_groups=None, groups=1)",
        "A bound with another number of samples loses its groups.",
    ),
    Mutation(
        IMPORTANCE,
        "return model, replace(model, groups=groups)",
        "return replace(model, groups=groups), model",
        "PIWAE exchanges the bounds of encoder and decoder.",
    ),
    Mutation(
        FACTOR,
        "return get_value(self.gamma) * self.total_correlation(draw)",
        "return -get_value(self.gamma) * self.total_correlation(draw)",
        "FactorVAE rewards the total correlation.",
    ),
    Mutation(
        CRITICS,
        "(softplus(-of_first) + softplus(of_second))",
        "(softplus(of_first) + softplus(-of_second))",
        "The critic's logit has the wrong sign.",
    ),
    Mutation(
        FACTOR,
        "torch.rand_like(units).argsort(1)",
        "torch.rand_like(units[..., :1]).argsort(1).expand_as(units)",
        "All units are permuted together, so their dependence is kept.",
    ),
    Mutation(
        CRITICS,
        "return 0.5 * (softplus(",
        "return (softplus(",
        "The critic's loss is twice the cross-entropy.",
    ),
    Mutation(
        SCHEDULES,
        "return step / self.steps",
        "return (step + 1) / self.steps",
        "A ramp of steps is one step ahead.",
    ),
    Mutation(
        SCHEDULES,
        "self.start + progress * (self.stop - self.start)",
        "progress * self.stop",
        "A ramp starts at 0.",
    ),
]
