"""Mutations of the distributions: densities, draws, moments and divergences."""

from __future__ import annotations

from mutation import Mutation

NORMAL, MIXTURE = "distributions/normal.py", "distributions/mixture.py"
BERNOULLI, CATEGORICAL = "distributions/bernoulli.py", "distributions/categorical.py"
DIVERGENCE, ENTRIES = "distributions/divergence.py", "distributions/entries.py"
VECTORS, POINTS = "distributions/vectors.py", "distributions/points.py"

MUTATIONS = [
    Mutation(
        NORMAL,
        "0.5 * math.log(2 * math.pi)",
        "0.5 * math.log(math.pi)",
        "The constant of Gaussian densities lacks log 2.",
    ),
    Mutation(
        NORMAL,
        "inner + excess / (1 + excess.abs() / knee)",
        "inner",
        "The smooth bound is a hard one, whose gradient vanishes.",
    ),
    Mutation(
        NORMAL,
        "x.clamp(low + knee, high - knee)",
        "x.clamp(low, high)",
        "The smooth bound exceeds its limits by the width of the knee.",
    ),
    Mutation(
        NORMAL,
        "(2 * self.log_scale).exp().expand",
        "self.log_scale.exp().expand",
        "The variance of a diagonal Gaussian is its standard deviation.",
    ),
    Mutation(
        NORMAL,
        "torch.addcmul(self.loc, self.log_scale.exp(), eps)",
        "torch.addcmul(self.loc, (2 * self.log_scale).exp(), eps)",
        "Draws of a diagonal Gaussian have the variance as standard deviation.",
    ),
    Mutation(
        NORMAL,
        "            - self._sum_over_event(self.log_scale)\n",
        "            - self.log_scale.sum()\n",
        "The log scales of a diagonal Gaussian are summed over the batch.",
    ),
    Mutation(
        NORMAL,
        "-0.5 * standardised.square() - self.log_scale - _HALF",
        "-0.5 * standardised.square() - _HALF",
        "The density of single Gaussian entries lacks the log scale.",
    ),
    Mutation(
        NORMAL,
        "self.loc.detach(), self.log_scale.detach(), self.event_dims",
        "self.loc.detach(), self.log_scale, self.event_dims",
        "A diagonal Gaussian with a stop-gradient still gives its scale a gradient.",
    ),
    Mutation(
        NORMAL,
        "constant = self.event_shape.numel() * (0.5 + _HALF_LOG_TWO_PI)",
        "constant = self.event_shape.numel() * _HALF_LOG_TWO_PI",
        "The entropy of a diagonal Gaussian lacks one half for each dimension.",
    ),
    Mutation(
        NORMAL,
        "return term * self.event_shape.numel()",
        "return term",
        "A shared log scale counts once instead of once for each dimension.",
    ),
    Mutation(
        NORMAL,
        "self.factor @ self.factor.mT",
        "self.factor.mT @ self.factor",
        "The covariance is L^T L instead of L L^T.",
    ),
    Mutation(
        NORMAL,
        "self.factor.square().sum(-1).expand",
        "self.factor.square().sum(-2).expand",
        "The variances of a full-rank Gaussian are sums over columns of L.",
    ),
    Mutation(
        NORMAL,
        "return self.loc + self._apply_to_columns(torch.matmul, eps)",
        "return self.loc + self.factor.diagonal(dim1=-2, dim2=-1) * eps",
        "Draws of a full-rank Gaussian are not correlated.",
    ),
    Mutation(
        NORMAL,
        "partial(torch.linalg.solve_triangular, upper=False), value - self.loc",
        "torch.matmul, value - self.loc",
        "The density of a full-rank Gaussian multiplies by L instead of its inverse.",
    ),
    Mutation(
        NORMAL,
        "-0.5 * quadratic - self._log_volume() - self",
        "-0.5 * quadratic - 2 * self._log_volume() - self",
        "The density of a full-rank Gaussian has the whole log determinant instead of half.",
    ),
    Mutation(
        NORMAL,
        "self.loc.detach(), self.factor.detach()",
        "self.loc.detach(), self.factor",
        "A full-rank Gaussian with a stop-gradient still gives its factor a gradient.",
    ),
    Mutation(
        NORMAL,
        "self._log_volume() + self.event_shape.numel() * (0.5 + _HALF_LOG_TWO_PI)",
        "self._log_volume() + self.event_shape.numel() * _HALF_LOG_TWO_PI",
        "The entropy of a full-rank Gaussian lacks one half for each dimension.",
    ),
    Mutation(
        BERNOULLI,
        "return self.mean * (1 - self.mean)",
        "return self.mean * self.mean",
        "The variance of a binary entry is the square of its probability.",
    ),
    Mutation(
        BERNOULLI,
        "(threshold < self.mean)",
        "(threshold >= self.mean)",
        "Draws of binary entries are inverted.",
    ),
    Mutation(
        BERNOULLI,
        "value * self.logits - nn.functional.softplus(self.logits)",
        "value * self.logits - nn.functional.softplus(-self.logits)",
        "The log probability of single binary entries has the wrong normaliser.",
    ),
    Mutation(
        BERNOULLI,
        "FactorialBernoulli(self.logits.detach(), self.event_dims)",
        "FactorialBernoulli(self.logits, self.event_dims)",
        "A Bernoulli distribution with a stop-gradient still gives its logits a gradient.",
    ),
    Mutation(
        BERNOULLI,
        "nn.functional.softplus(self.logits) - self.mean * self.logits",
        "nn.functional.softplus(self.logits) - self.mean",
        "The entropy of binary entries subtracts the mean instead of mean times logit.",
    ),
    Mutation(
        BERNOULLI,
        "                total = total + product[..., -1].log()\n",
        "                pass\n",
        "The last of an odd number of binary entries is not normalised.",
    ),
    Mutation(
        BERNOULLI,
        "of_value = (gradient * logits)",
        "of_value = (gradient * logits.sigmoid())",
        "The gradient of a binary log probability at the values is the probability.",
    ),
    Mutation(
        BERNOULLI,
        "gradient * (value - logits.sigmoid())",
        "gradient * (value - 0.5)",
        "The gradient of a binary log probability at the logits ignores the logits.",
    ),
    Mutation(
        BERNOULLI,
        "for k in range(5, -1, -1):",
        "for k in range(4, -1, -1):",
        "The compiled exponential leaves out a term of its series.",
    ),
    Mutation(
        CATEGORICAL,
        "(self.probs * deviation.square())",
        "(self.probs * deviation.abs())",
        "The variance of entries with levels is a mean absolute deviation.",
    ),
    Mutation(
        CATEGORICAL,
        "(cumulative <= u.unsqueeze(self.axis))",
        "(cumulative <= 1 - u.unsqueeze(self.axis) ** 2)",
        "Draws of entries with levels do not follow their probabilities.",
    ),
    Mutation(
        CATEGORICAL,
        "(value * (self.levels - 1)).round()",
        "(value * (self.levels - 1)).floor()",
        "Values just below a level are scored as the level before.",
    ),
    Mutation(
        CATEGORICAL,
        "chosen - self.logits.logsumexp(self.axis)",
        "chosen - self.logits.amax(self.axis)",
        "The log probability of a level is not normalised.",
    ),
    Mutation(
        CATEGORICAL,
        "return self.change_parameters(Tensor.detach)",
        "return self.change_parameters(Tensor.clone)",
        "A distribution over levels with a stop-gradient still gives its logits a gradient.",
    ),
    Mutation(
        CATEGORICAL,
        "return -(log_probs.exp() * log_probs).flatten(self.axis).sum(-1)",
        "return -(log_probs.exp() * log_probs).flatten(self.axis).mean(-1)",
        "The entropy of entries with levels is a mean instead of a sum.",
    ),
    Mutation(
        CATEGORICAL,
        "level.to(self.logits.dtype) / (self.levels - 1)",
        "level.to(self.logits.dtype) / self.levels",
        "The largest level lies below 1.",
    ),
    Mutation(
        DIVERGENCE,
        "torch.expm1(2 * log_ratio) - 2 * log_ratio",
        "torch.expm1(2 * log_ratio) - log_ratio",
        "The KL divergence of Gaussians counts the log ratio of the scales once.",
    ),
    Mutation(
        DIVERGENCE,
        "((q.loc - p.loc) * (-p.log_scale).exp())",
        "((q.loc - p.loc) * (-q.log_scale).exp())",
        "The KL divergence of Gaussians measures the shift in q's scale.",
    ),
    Mutation(
        DIVERGENCE,
        "q.mean * (q.logits - p.logits)",
        "p.mean * (q.logits - p.logits)",
        "The KL divergence of binary entries averages over p.",
    ),
    Mutation(
        DIVERGENCE,
        "DiagonalNormal(base.loc, base.scale.log(), len",
        "DiagonalNormal(base.loc, base.scale, len",
        "The scale of torch's Gaussians is taken for its logarithm.",
    ),
    Mutation(
        DIVERGENCE,
        "return -q.entropy()",
        "return q.entropy()",
        "The rate of a log joint is the entropy instead of minus the entropy.",
    ),
    Mutation(
        ENTRIES,
        "terms.masked_fill(~self.observed, 0.0)",
        "terms.masked_fill(self.observed, 0.0)",
        "The missing entries are scored instead of the observed ones.",
    ),
    Mutation(
        ENTRIES,
        "return torch.where(chosen, inside, value)",
        "return value",
        "Placeholders of missing entries reach the density, and its gradient becomes nan.",
    ),
    Mutation(
        MIXTURE,
        "self.log_weights = log_weights.log_softmax(-1)",
        "self.log_weights = log_weights",
        "The weights of a mixture do not sum to 1.",
    ),
    Mutation(
        MIXTURE,
        "self._average(self.components.variance + distances.square())",
        "self._average(self.components.variance)",
        "The variance of a mixture lacks the distances of its means.",
    ),
    Mutation(
        MIXTURE,
        "(each + self.log_weights).logsumexp(-1)",
        "(each + self.log_weights).amax(-1)",
        "The density of a mixture is that of its best component.",
    ),
    Mutation(
        MIXTURE,
        "(u.unsqueeze(-1) >= cumulative).sum(-1)",
        "(u.unsqueeze(-1) < cumulative).sum(-1) - 1",
        "Components are drawn in the order of the last to the first.",
    ),
    Mutation(
        POINTS,
        "distribution.sample(Size((_DRAWS,))).mean(0)",
        "distribution.sample(Size((_DRAWS,)))[0]",
        "A point without a closed form is a single draw.",
    ),
    Mutation(
        "distributions/point_mass.py",
        "torch.where(there, 0.0, -torch.inf)",
        "torch.where(there, 0.0, 0.0)",
        "A point mass has the log probability 0 everywhere.",
    ),
    Mutation(
        VECTORS,
        "value[..., self.inverse_order].split",
        "value[..., self.order].split",
        "Independent parts of a vector are scored in another order than they are drawn.",
    ),
    Mutation(
        VECTORS,
        "torch.stack([part.entropy() for part in self.parts]).sum(0)",
        "torch.stack([part.entropy() for part in self.parts]).mean(0)",
        "The entropy of independent parts is their mean.",
    ),
]
