"""Mutations of the models: draws and their gradients, log joints, and starting points."""

from __future__ import annotations

from mutation import Mutation

DRAW, GROUPS, PATHS = "models/draw.py", "models/groups.py", "models/paths.py"
SAMPLING, JOINT = "models/sampling.py", "models/joint.py"
JOINT_POSTERIOR, LATENT = "models/joint_posterior.py", "models/latent.py"
GENERATIVE = "models/generative.py"
VARIABLE, RESAMPLING = "models/variable_posterior.py", "models/resampling.py"
PATHFINDER = "models/pathfinder.py"

MUTATIONS = [
    Mutation(
        DRAW,
        "return self.log_likelihood + self.log_prior - self.log_q",
        "return self.log_likelihood - self.log_q",
        "Importance weights lack the prior.",
    ),
    Mutation(
        DRAW,
        "return _sum([direct for _, direct in self._split.values()])",
        "return _sum([direct for direct, _ in self._split.values()])",
        "Log q of groups with a stop-gradient on z has its gradient through z.",
    ),
    Mutation(
        DRAW,
        "            earlier.append(latent.z)\n",
        "",
        "Log q of a group does not see the latents on which it depends.",
    ),
    Mutation(
        DRAW,
        "gradient * (scale - 1).reshape",
        "gradient * scale.reshape",
        "A scaled path counts the gradient once too often.",
    ),
    Mutation(
        DRAW,
        "return (self.log_q - self.log_prior).mean(0)",
        "return (self.log_q - self.log_prior)[0]",
        "The sampled rate uses the first draw only.",
    ),
    Mutation(
        DRAW,
        "return _sum([latent.rate for latent in self.groups.values()])",
        "return self.sampled_rate",
        "The rate of several groups is sampled although it has a closed form.",
    ),
    Mutation(
        DRAW,
        "return torch.cat([rate.flatten(1) for rate in found], 1)",
        "return found[0].flatten(1)",
        "The rates of units are those of the first group.",
    ),
    Mutation(
        GROUPS,
        "return len(self.prior.batch_shape) == 2 and not self.top_down",
        "return False",
        "A prior that depends on later latents gets the closed form of its KL divergence.",
    ),
    Mutation(
        GROUPS,
        "prior=prior, top_down=True, posterior_term",
        "prior=prior, top_down=False, posterior_term",
        "The rate of a group drawn from the top down is sampled.",
    ),
    Mutation(
        GROUPS,
        "return units.mean(0)",
        "return units[0]",
        "Rates of units that depend on other latents are those of the first draw.",
    ),
    Mutation(
        GROUPS,
        "return self.draw_rates.mean(0)",
        "return self.draw_rates[0]",
        "A rate that depends on other latents is that of the first draw.",
    ),
    Mutation(
        GROUPS,
        "z = latent.z.view_as(latent.z)",
        "z = latent.z",
        "The gradient at a group's latents includes that of its parameters.",
    ),
    Mutation(
        GROUPS,
        "return log_q.detach() + through_latents, log_q - through_latents",
        "return log_q.detach() + through_latents, log_q",
        "Log q of a group with a stop-gradient on z keeps the gradient through z.",
    ),
    Mutation(
        PATHS,
        "own = own if later is None else own - later",
        "own = own",
        "Partial derivatives are total ones, which follow later latents.",
    ),
    Mutation(
        PATHS,
        "found.insert(0, own)",
        "found.append(own)",
        "Partial derivatives belong to the latents in the reverse order.",
    ),
    Mutation(
        PATHS,
        "(gradient * (z - z.detach()))",
        "(gradient * z)",
        "A term that only carries gradients changes the value.",
    ),
    Mutation(
        SAMPLING,
        "return score_latents(stopped, z)",
        "return score_latents(q, z)",
        "The posterior's parameters get a gradient in spite of the stop-gradient.",
    ),
    Mutation(
        SAMPLING,
        "return log_q.detach() + zero_with_gradients(partial_gradients(log_q, [point]), [point])",
        "return log_q",
        "A flow's parameters get a gradient in spite of the stop-gradient.",
    ),
    Mutation(
        SAMPLING,
        'no_path = gradient == "score-function" or not',
        "no_path = not",
        "The score-function gradient also follows the draws.",
    ),
    Mutation(
        SAMPLING,
        "return torch.where(log_w.isnan(), -math.inf, log_w)",
        "return log_w",
        "A weight that is nan is not counted as zero.",
    ),
    Mutation(
        SAMPLING,
        "return module.training and isinstance(",
        "return False and isinstance(",
        "A posterior with dropout is evaluated twice, as two distributions.",
    ),
    Mutation(
        JOINT_POSTERIOR,
        "stopgrad_z_term=lambda: score_latents(q, u.detach()),",
        "stopgrad_z_term=lambda: score_latents(q, u),",
        "The fixed-point term of a log joint's posterior is not detached.",
    ),
    Mutation(
        JOINT_POSTERIOR,
        "expand(score_latents(q, u.detach()[:, 0]))",
        "expand(score_latents(q, u[:, 0]))",
        "The fixed-point term of a log joint with batches is not detached.",
    ),
    Mutation(
        JOINT_POSTERIOR,
        "score_through_z(q, posterior, u[:, :1]).expand(size)",
        "expand(posterior_term())",
        "The posterior of a log joint with batches has no stop-gradient.",
    ),
    Mutation(
        JOINT_POSTERIOR,
        "stopgrad_parameters_term=lambda: score_through_z(q, posterior, u),",
        "stopgrad_parameters_term=posterior_term,",
        "The posterior of a log joint has no stop-gradient.",
    ),
    Mutation(
        LATENT,
        "stopgrad_z_term=lambda: score_latents(q, z.detach())",
        "stopgrad_z_term=lambda: score_latents(q, z)",
        "The fixed-point term of an auto-encoder is not detached.",
    ),
    Mutation(
        LATENT,
        "        with noise.for_foreign(samples, len(x)):\n            z, posterior_term",
        "        with noise.for_foreign(samples + 1, len(x)):\n            z, posterior_term",
        "The noise of other libraries' posteriors does not belong to the examples.",
    ),
    Mutation(
        GENERATIVE,
        'list_field_names("needs", self.likelihood) if name not in given]',
        'list_field_names("needs", self.likelihood) if name in given]',
        "A reconstruction is not given the examples' own fields.",
    ),
    Mutation(
        JOINT,
        "total: Tensor = value + log_det",
        "total: Tensor = value",
        "A log joint lacks the log determinant.",
    ),
    Mutation(
        JOINT,
        "batch = (x, self.size / len(x))\n        return draw_for_all",
        "batch = (x, 1.0)\n        return draw_for_all",
        "The likelihood of a batch is not scaled to all data.",
    ),
    Mutation(
        JOINT,
        "whole.centre, whole.spread, whole.training = self.centre, self.spread, self.training",
        "whole.training = self.training",
        "A log joint with all data loses its centre and spread.",
    ),
    Mutation(
        VARIABLE,
        "return values, log_det + self.spread.log().sum()",
        "return values, log_det",
        "The log determinant lacks the standardisation.",
    ),
    Mutation(
        VARIABLE,
        "self.log_density((point.to(self.centre) - self.centre) / self.spread)",
        "self.log_density(point.to(self.centre))",
        "A second start() searches in the space of the first one.",
    ),
    Mutation(
        VARIABLE,
        "self.spread.copy_(scale)",
        "self.spread.copy_(scale**2)",
        "The spread is a variance.",
    ),
    Mutation(
        VARIABLE,
        "candidates=_CANDIDATES * count,",
        "candidates=count,",
        "Resampling has no more candidates than draws.",
    ),
    Mutation(
        RESAMPLING,
        "points = (steps + torch.rand_like(ends[:1])) / count",
        "points = (steps + 0.5) / count",
        "Systematic resampling is not random, so its expectations are wrong.",
    ),
    Mutation(
        RESAMPLING,
        "(total - math.log(count)).expand(count)",
        "total.expand(count)",
        "The draws that were kept weigh too much beside those of the next chunk.",
    ),
    Mutation(
        RESAMPLING,
        "return kept[torch.randperm(count, device=kept.device)]",
        "return kept",
        "Resampled draws come in the order of the candidates.",
    ),
    Mutation(
        RESAMPLING,
        "ends = log_w.softmax(0).cumsum(0)",
        "ends = (0.5 * log_w).softmax(0).cumsum(0)",
        "Draws are resampled in proportion to the roots of their weights.",
    ),
    Mutation(
        PATHFINDER,
        "return self.alpha + low_rank",
        "return self.alpha",
        "The variances of Pathfinder's Gaussian lack the curvature along the path.",
    ),
    Mutation(
        PATHFINDER,
        "+ 2 * np.log(np.diag(factor)).sum()\n        size",
        "+ np.log(np.diag(factor)).sum()\n        size",
        "The density of Pathfinder's draws has half of a log determinant.",
    ),
    Mutation(
        PATHFINDER,
        "mean = point + alpha * gradient + beta @ (gamma @ (beta.T @ gradient))",
        "mean = point",
        "Pathfinder's Gaussian is at the point instead of a Newton step away from it.",
    ),
    Mutation(
        PATHFINDER,
        "float(np.mean(heights - log_q))",
        "float(np.mean(heights))",
        "Pathfinder takes the highest density instead of the largest bound.",
    ),
    Mutation(
        PATHFINDER,
        "if bound > best[0]:",
        "if bound > -math.inf:",
        "Pathfinder takes the last Gaussian instead of the best one.",
    ),
    Mutation(
        PATHFINDER,
        "a / (b * alpha) + change**2 / b - a",
        "a / (b * alpha) - a",
        "The diagonal of the inverse Hessian does not explain the last step.",
    ),
    Mutation(
        PATHFINDER,
        "_START_RADIUS = 2.0",
        "_START_RADIUS = 0.0",
        "All of Pathfinder's paths start at 0.",
    ),
    Mutation(
        PATHFINDER,
        "corner = inverse.T @ (np.diag(np.diag(along)) + changes.T @ scaled) @ inverse",
        "corner = inverse.T @ np.diag(np.diag(along)) @ inverse",
        "The compact inverse Hessian lacks a term.",
    ),
    Mutation(
        "models/passes.py",
        "noise.per_example(seed, rows):",
        "noise.per_example(seed, index):",
        "The noise of an example depends on its position among those evaluated.",
    ),
]
