"""Mutations of priors and posteriors: codes, spheres, one-hot codes, mixtures, several layers."""

from __future__ import annotations

from mutation import Mutation

ONE_HOT, SPHERE = "distributions/one_hot.py", "distributions/sphere.py"
SPHERE_PARTS, CODES = "conditionals/sphere.py", "distributions/codes.py"
QUANTIZED, CODE_PRIOR = "conditionals/quantized.py", "conditionals/code_prior.py"
MIXTURE, IMPLICIT = "conditionals/mixture.py", "distributions/implicit.py"
HIERARCHY = "distributions/hierarchy.py"

MUTATIONS = [
    # One-hot codes
    Mutation(
        ONE_HOT,
        "soft = (noisy / self.temperature).softmax(-1)",
        "soft = noisy.softmax(-1)",
        "A straight-through gradient ignores the temperature.",
    ),
    Mutation(
        ONE_HOT,
        "return self._encode(noisy.argmax(-1)) + (soft - soft.detach())",
        "return self._encode(noisy.argmax(-1)) + 0 * soft",
        "A straight-through code has no gradient.",
    ),
    Mutation(
        ONE_HOT,
        "return exact.log_probs - exponential.clamp_min(torch.finfo(u.dtype).tiny).log()",
        "return exact.log_probs + exponential.clamp_min(torch.finfo(u.dtype).tiny).log()",
        "The disturbance of a relaxed code has the wrong sign.",
    ),
    Mutation(
        ONE_HOT,
        "scores = self.logits - self.temperature * logs",
        "scores = self.logits - logs",
        "The density of a relaxed code ignores the temperature.",
    ),
    Mutation(
        ONE_HOT,
        "each = (scores - logs).sum(-1) - count * scores.logsumexp(-1)",
        "each = scores.sum(-1) - count * scores.logsumexp(-1)",
        "The density of a relaxed code lacks the Jacobian of the logarithm.",
    ),
    Mutation(
        ONE_HOT,
        "math.lgamma(count) + (count - 1) * math.log(self.temperature)",
        "math.lgamma(count) + count * math.log(self.temperature)",
        "The density of a relaxed code has one power of the temperature too many.",
    ),
    Mutation(
        ONE_HOT,
        "return (q.probs * (q.log_probs - p.log_probs)).sum(-1)",
        "return (p.probs * (p.log_probs - q.log_probs)).sum(-1)",
        "The KL between one-hot codes has its arguments swapped.",
    ),
    Mutation(
        ONE_HOT,
        "category = (cumulative <= u.unsqueeze(-1)).sum(-1)",
        "category = (cumulative <= u.unsqueeze(-1)).sum(-1) + 1",
        "Draws of one-hot codes are off by one category.",
    ),
    # The sphere
    Mutation(
        SPHERE,
        "return math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2)",
        "return size / 2 * math.log(math.pi) - math.lgamma(size / 2 + 1)",
        "The area of the sphere is the volume of the ball.",
    ),
    Mutation(
        SPHERE,
        "return torch.full_like(self.mean, 1 / self.event_shape[0])",
        "return torch.full_like(self.mean, 1.0)",
        "The variance on the sphere does not depend on its dimension.",
    ),
    Mutation(
        SPHERE,
        "self.beta = (loc.shape[-1] - 1) / 2",
        "self.beta = loc.shape[-1] / 2",
        "A power spherical distribution has the dimension of the space around it.",
    ),
    Mutation(
        SPHERE,
        "sine = 2 * (upper * lower).sqrt()",
        "sine = (upper * lower).sqrt()",
        "Power spherical draws are not of length 1.",
    ),
    Mutation(
        SPHERE,
        "y = torch.cat([upper - lower, sine * around], -1)",
        "y = torch.cat([lower - upper, sine * around], -1)",
        "Power spherical draws lie opposite to their direction.",
    ),
    Mutation(
        SPHERE,
        "return squares * along + (1 - squares) * around / (self.event_shape[0] - 1)",
        "return squares * along + (1 - squares) * around / self.event_shape[0]",
        "The variance around a direction is spread over one dimension too many.",
    ),
    Mutation(
        SPHERE,
        "return compute_log_area(q.event_shape[0]) - q.entropy()",
        "return q.entropy() - compute_log_area(q.event_shape[0])",
        "The KL to the uniform distribution on the sphere has the wrong sign.",
    ),
    Mutation(
        SPHERE,
        "return -sign * reflected",
        "return reflected",
        "Power spherical draws are reflected instead of turned.",
    ),
    Mutation(
        SPHERE_PARTS,
        "concentration = (direction.shape[-1] - 1) * nn.functional.softplus(v)",
        "concentration = nn.functional.softplus(v)",
        "The concentration does not grow with the dimension of the sphere.",
    ),
    # Codes
    Mutation(
        CODES,
        "centred = self.code_probabilities.unsqueeze(-2) @ self._align_tables(self.tables)",
        "centred = self._align_tables(self.tables).mean(-2, keepdim=True)",
        "The variance of code vectors is around the mean of the table.",
    ),
    Mutation(
        CODES,
        "codes = (probabilities.cumsum(-1) <= u.unsqueeze(-1)).sum(-1)",
        "codes = (probabilities.cumsum(-1) <= u.unsqueeze(-1)).sum(-1) + 1",
        "Draws of codes are off by one.",
    ),
    Mutation(
        CODES,
        "return torch.stack(chosen).sum(0).movedim(-1, -event_dims)",
        "return torch.stack(chosen)[-1].movedim(-1, -event_dims)",
        "Only the last stage makes the vectors of codes.",
    ),
    Mutation(
        CODES,
        "return self.base.log_prob(codes.flatten(-len(self.units)))",
        "return self.base.log_prob(codes.flatten(-len(self.units)).flip(-1))",
        "A sequence of codes is scored from its end.",
    ),
    Mutation(
        QUANTIZED,
        "left = left - chosen[-1].detach()",
        "left = left - chosen[0].detach()",
        "Each stage subtracts the vector of the first one.",
    ),
    Mutation(
        QUANTIZED,
        "whole + (raw - raw.detach()),",
        "whole,",
        "A quantised posterior passes no gradient to the encoder.",
    ),
    Mutation(
        QUANTIZED,
        "self._sum_squares(inputs, [vector.detach() for vector in chosen]),\n"
        "                self._sum_squares([vector.detach() for vector in inputs], chosen),",
        "self._sum_squares([vector.detach() for vector in inputs], chosen),\n"
        "                self._sum_squares(inputs, [vector.detach() for vector in chosen]),",
        "The commitment moves the codes, and the codebook's loss the encoder.",
    ),
    Mutation(
        QUANTIZED,
        "return distances.square().flatten(-self.event_dims).sum((0, -1))",
        "return distances.square().flatten(-self.event_dims).mean((0, -1))",
        "The errors of a codebook are averaged over positions and stages.",
    ),
    Mutation(
        QUANTIZED,
        "total = decay * self.sums[stage] + (1 - decay) * (one_hot.mT @ vectors)",
        "total = decay * self.sums[stage] + one_hot.mT @ vectors",
        "A moving average of vectors weights new ones fully.",
    ),
    Mutation(
        QUANTIZED,
        "chosen = codes.select(-self.event_dims, stage).flatten()",
        "chosen = codes.select(-self.event_dims, 0).flatten()",
        "The tables of later stages follow the codes of the first one.",
    ),
    Mutation(
        QUANTIZED,
        "dead = size < self.revive * average",
        "dead = size < 0 * average",
        "Codes that are never used are not revived.",
    ),
    Mutation(
        QUANTIZED,
        "sizes.append(torch.where(dead, average, size))",
        "sizes.append(size)",
        "A revived code keeps its small use and is dead again.",
    ),
    Mutation(
        QUANTIZED,
        "if not self.training or self.decay is None:",
        "if self.decay is None:",
        "An evaluation changes a codebook.",
    ),
    Mutation(
        QUANTIZED,
        'self.register_buffer("sums", torch.zeros_like(tables))',
        'self.register_buffer("sums", torch.zeros_like(tables), persistent=False)',
        "The moving averages of a codebook are not saved.",
    ),
    Mutation(
        QUANTIZED,
        "return vectors[(u * len(vectors)).long()]",
        "return vectors[: len(u)] + 0 * u[:1].to(vectors.dtype)",
        "Dead codes move to the first outputs of the batch.",
    ),
    Mutation(
        QUANTIZED,
        "half = (counts - 1) * (1 + 1e-3) / 2",
        "half = counts * (1 + 1e-3) / 2",
        "Finite scalar quantisation reaches a level beyond the last one.",
    ),
    Mutation(
        QUANTIZED,
        "offset = 0.5 * (self.level_counts % 2 == 0)",
        "offset = 0.5 * (self.level_counts % 2 == 1)",
        "Finite scalar quantisation shifts odd instead of even numbers of levels.",
    ),
    Mutation(
        QUANTIZED,
        "rounded = bounded.detach().round() + (bounded - bounded.detach())",
        "rounded = bounded.detach().round() + (vectors - vectors.detach())",
        "The gradient of finite scalar quantisation is that of the unbounded output.",
    ),
    Mutation(
        QUANTIZED,
        "number = number * count + levels[..., channel].long()",
        "number = number + levels[..., channel].long()",
        "Different levels have the same code.",
    ),
    Mutation(
        CODE_PRIOR,
        "everywhere = counts.reshape(-1, len(numbers)).sum(0) + 1",
        "everywhere = counts.reshape(-1, len(numbers)).sum(0) * 0 + 1",
        "The frequencies of codes are smoothed towards equal ones.",
    ),
    Mutation(
        CODE_PRIOR,
        "self.logits.copy_(smoothed.log())",
        "self.logits.copy_(smoothed)",
        "The logits of a prior over codes start at their frequencies.",
    ),
    # Mixtures
    Mutation(
        MIXTURE,
        "shares = (log_weights - 0.5 * (squares + variances.log().sum(1))).softmax(1)",
        "shares = (log_weights - 0.5 * squares).softmax(1)",
        "Expectation maximisation ignores the volumes of components.",
    ),
    Mutation(
        MIXTURE,
        "shares = (log_weights - 0.5 * (squares + variances.log().sum(1))).softmax(1)",
        "shares = (log_weights - 0.5 * (squares + variances.log().sum(1))).softmax(0)",
        "The shares of expectation maximisation sum to 1 over the examples.",
    ),
    Mutation(
        MIXTURE,
        "variances = (deviations.clamp_min(0.0) + spread) / (sizes[:, None] + 1)",
        "variances = deviations.clamp_min(0.0) + spread",
        "The variances of expectation maximisation are sums.",
    ),
    Mutation(
        MIXTURE,
        "logits, means, log_variances = raw.split((self.components, count, count), -1)",
        "logits, log_variances, means = raw.split((self.components, count, count), -1)",
        "A mixture posterior takes the means as log variances.",
    ),
    Mutation(
        IMPLICIT,
        "log_shares = (log_weights.unsqueeze(-1) + before).log_softmax(-2)",
        "log_shares = log_weights.unsqueeze(-1).expand_as(before).log_softmax(-2)",
        "The gradient of draws from a mixture ignores the dimensions before.",
    ),
    Mutation(
        IMPLICIT,
        "before = log_density.cumsum(-1) - log_density",
        "before = log_density.cumsum(-1)",
        "The dimensions before one contain the one itself.",
    ),
    Mutation(
        IMPLICIT,
        "gradients = -standardised * (-log_scale).exp()  # of the log densities",
        "gradients = -standardised  # of the log densities",
        "The Jacobian of draws from a mixture is not in units of z.",
    ),
    Mutation(
        "conditionals/vamp.py",
        "rows = torch.linspace(0, len(x) - 1, len(self.pseudo_inputs)).round().long()",
        "rows = torch.arange(len(self.pseudo_inputs)) * 0",
        "All pseudo-inputs start at the first example.",
    ),
    # Layers as one vector
    Mutation(
        HIERARCHY,
        "return sum(terms[1:], terms[0])",
        "return sum(terms[2:], terms[0])",
        "The density of several layers lacks that of the second one.",
    ),
    Mutation(
        HIERARCHY,
        "return torch.stack(inside).all(0)",
        "return torch.stack(inside).any(0)",
        "Latents of several layers may violate the support of one of them.",
    ),
    Mutation(
        "conditionals/log_input.py",
        "return x.clamp(min=0).log1p()",
        "return x.clamp(min=0)",
        "The encoder gets counts instead of their logarithms.",
    ),
]
