"""Mutations of the health of latents and posteriors: information, errors, thresholds, causes."""

from __future__ import annotations

from mutation import Mutation

AGGREGATE, HEALTH = "evaluation/aggregate.py", "evaluation/health.py"
GROUP_HEALTH, LATENT_GROUPS = "evaluation/group_health.py", "evaluation/latent_groups.py"
DIAGNOSIS, POSTERIOR = "evaluation/diagnosis.py", "evaluation/posterior.py"
CAUSES, ROUNDING = "evaluation/posterior_causes.py", "evaluation/posterior_rounding.py"

MUTATIONS = [
    Mutation(
        AGGREGATE,
        "mixture.own - joint + math.log(mixture.size)",
        "mixture.own - joint + math.log(mixture.size + 1)",
        "The aggregate posterior divides by one example too many.",
    ),
    Mutation(
        AGGREGATE,
        "log_marginal = marginal.log() - math.log(mixture.size)",
        "log_marginal = marginal.log() - math.log(mixture.size + 1)",
        "The marginal densities divide by one example too many.",
    ),
    Mutation(
        AGGREGATE,
        "rest = y - slope * (t - float(known.mean()))",
        "rest = y + slope * (t - float(known.mean()))",
        "The correction of the mutual information has the wrong sign.",
    ),
    Mutation(
        AGGREGATE,
        "variance = float(means.var()) / len(means)",
        "variance = float(means.var())",
        "The error of the mutual information is not divided by the number of examples.",
    ),
    Mutation(
        AGGREGATE,
        "    variance += slope**2 * float(known.var(correction=0)) / len(known)\n",
        "",
        "The error of the mutual information lacks that of the rates.",
    ),
    Mutation(
        AGGREGATE,
        "means = sums.index_add_(0, index, rest) / count",
        "means = rest",
        "The draws of one example count as independent.",
    ),
    Mutation(
        AGGREGATE,
        "rows.append((here + start).repeat(samples))",
        "rows.append((here + start).repeat_interleave(samples))",
        "Draws belong to other examples.",
    ),
    Mutation(
        AGGREGATE,
        "constant = (-q.log_scale.double() - _HALF_LOG_TWO_PI)",
        "constant = -_HALF_LOG_TWO_PI + 0 * q.log_scale.double()",
        "The densities of units lack their scale.",
    ),
    Mutation(
        AGGREGATE,
        '"own_share": float((mixture.own - joint).exp().mean())',
        '"own_share": float((mixture.own - joint).exp().max())',
        "The share of a draw's own posterior is the largest one.",
    ),
    Mutation(
        GROUP_HEALTH,
        "_ACTIVE_VARIANCE = 0.01",
        "_ACTIVE_VARIANCE = 0.1",
        "The threshold of active units is ten times too high.",
    ),
    Mutation(
        GROUP_HEALTH,
        "return self.aggregate_kl - self.marginal_kl",
        "return self.aggregate_kl + self.marginal_kl",
        "The total correlation is the sum of two divergences.",
    ),
    Mutation(
        GROUP_HEALTH,
        "torch.special.entr(self.probabilities).sum(1)",
        "torch.special.entr(self.probabilities).mean(1)",
        "The perplexity of codes has a mean instead of an entropy.",
    ),
    Mutation(
        GROUP_HEALTH,
        "self.own_share - 1 / self.components > _OWN_SHARE * (1 - 1 / self.components)",
        "self.own_share > _OWN_SHARE",
        "A few equal posteriors count as separated ones.",
    ),
    Mutation(
        GROUP_HEALTH,
        "(~self.active & (self.rate_per_unit < _OFF_NATS))",
        "(self.rate_per_unit < _OFF_NATS)",
        "Active units may count as switched off.",
    ),
    Mutation(
        HEALTH,
        "health.mutual_information + 2 * health.mutual_information_error",
        "health.mutual_information - 2 * health.mutual_information_error",
        "A collapse is reported if it is possible, instead of certain.",
    ),
    Mutation(
        HEALTH,
        "_NOTHING_NATS, _NEXT_TO_NOTHING_NATS = 0.1, 0.5",
        "_NOTHING_NATS, _NEXT_TO_NOTHING_NATS = 0.1, 5.0",
        "Latents with inactive units have collapsed although they carry information.",
    ),
    Mutation(
        HEALTH,
        "            + shift.square() * (self.count * len(means) / new)\n",
        "",
        "The variances of means lack those between batches.",
    ),
    Mutation(
        HEALTH,
        "(self.squares - self.noise) / self.count)",
        "(self.squares - self.noise) / (self.count - 1))",
        "The variance of means is not that of the population.",
    ),
    Mutation(
        HEALTH,
        "self.noise = self.noise + noise.sum(0)",
        "self.noise = self.noise + 0 * noise.sum(0)",
        "The noise of means over draws of other latents counts as variance between examples.",
    ),
    Mutation(
        HEALTH,
        "codes.argmax(-1, keepdim=True)",
        "codes.argmin(-1, keepdim=True)",
        "The least probable codes count as used.",
    ),
    Mutation(
        LATENT_GROUPS,
        "            values = values.mean(0)\n",
        "            values = values[0]\n",
        "Means that depend on other latents are those of the first draw.",
    ),
    Mutation(
        LATENT_GROUPS,
        "torch.stack([1 - base.mean, base.mean], -1)",
        "torch.stack([base.mean, 1 - base.mean], -1)",
        "The two codes of a binary unit are exchanged.",
    ),
    Mutation(
        DIAGNOSIS,
        "if float(_variances(x / per_entry)[-1]) > 1:",
        "if float(_variances(x / per_entry)[0]) > 1:",
        "A broad scale is judged by the direction with the smallest variance.",
    ),
    Mutation(
        DIAGNOSIS,
        "if beta is not None and beta > 1:",
        "if beta is not None and beta > 10:",
        "A weight of 4 on the rate is not a cause of a collapse.",
    ),
    Mutation(
        DIAGNOSIS,
        "rest = variances[: max(0, len(variances) - units)]",
        "rest = variances[min(units, len(variances)) :]",
        "The residual scale leaves out the smallest components.",
    ),
    Mutation(
        DIAGNOSIS,
        "if not float(gain.mean()) >= max(1.0, 3 * error):",
        "if not float(gain.mean()) >= 1000:",
        "A decoder that does not need z is not found.",
    ),
    Mutation(
        POSTERIOR,
        "float(draws.log_w.std()) / math.sqrt(len(draws.log_w))",
        "float(draws.log_w.std())",
        "The error of the ELBO lacks the root of the number of draws.",
    ),
    Mutation(
        CAUSES,
        "stretched = (u - u.mean(0)) * gradients + 1",
        "stretched = (u - u.mean(0)) * gradients",
        "The gain from stretching q lacks its entropy.",
    ),
    Mutation(
        CAUSES,
        "((moved, 1.0), (stretched, 2.0))",
        "((moved, 1.0), (stretched, 0.02))",
        "The gain from stretching q has the wrong curvature.",
    ),
    Mutation(
        CAUSES,
        "moved = gradients * scale",
        "moved = gradients / scale",
        "The gain from moving q is measured in the wrong unit.",
    ),
    Mutation(
        ROUNDING,
        "_FAR, _SHARE = 0.1, 1e-3",
        "_FAR, _SHARE = 100.0, 1e-3",
        "Draws that are rounded at a boundary are not found.",
    ),
]
