"""Mutations of coordinate ascent: updates of factors, and expected log joints."""

from __future__ import annotations

from mutation import Mutation

GAUSSIAN, MIXTURE = "ascent/gaussian.py", "ascent/mixture.py"
REGRESSION, BASE = "ascent/regression.py", "ascent/base.py"

MUTATIONS = [
    Mutation(
        GAUSSIAN,
        "torch.digamma(gamma.concentration) - gamma.rate.log()",
        "gamma.concentration.log() - gamma.rate.log()",
        "The expected logarithm of a gamma variable is the logarithm of its mean.",
    ),
    Mutation(
        GAUSSIAN,
        "constant = concentration * math.log(rate) - math.lgamma(concentration)",
        "constant = -math.lgamma(concentration)",
        "The gamma density lacks its rate's power.",
    ),
    Mutation(
        GAUSSIAN,
        "constant + (concentration - 1) * expected_log(q)",
        "constant + concentration * expected_log(q)",
        "The gamma density has an exponent that is 1 too large.",
    ),
    Mutation(
        GAUSSIAN,
        "own.rsqrt())",
        "torch.linalg.inv(self.precision)[number, number].sqrt())",
        "Mean field has the marginal variances.",
    ),
    Mutation(
        GAUSSIAN,
        "self.mean[number] - self.precision[number] @ shift / own",
        "self.mean[number] - self.precision[number] @ shift",
        "A coordinate's mean given the others is not divided by its precision.",
    ),
    Mutation(
        GAUSSIAN,
        "shift @ self.precision @ shift + self.precision.diagonal() @ variances",
        "shift @ self.precision @ shift",
        "The expected density of a known Gaussian lacks the variances.",
    ),
    Mutation(
        GAUSSIAN,
        "self.concentration + 0.5 * (len(x) + 1)",
        "self.concentration + 0.5 * len(x)",
        "The precision's update forgets the prior of the mean.",
    ),
    Mutation(
        GAUSSIAN,
        "self.concentration + 0.5 * count\n",
        "self.concentration + 0.5 * (count - 1)\n",
        "The evidence has one observation too few.",
    ),
    Mutation(
        GAUSSIAN,
        "self.strength * count / strength * (",
        "self.strength * (",
        "The evidence weighs the distance of the prior mean too much.",
    ),
    Mutation(
        GAUSSIAN,
        "(strength * precision.mean).rsqrt()",
        "(len(x) * precision.mean).rsqrt()",
        "The mean's update forgets the strength of the prior.",
    ),
    Mutation(
        GAUSSIAN,
        "shifts + (len(x) + self.strength) * mean.variance",
        "shifts + len(x) * mean.variance",
        "The expected squares lack the prior's share of the variance.",
    ),
    Mutation(
        MIXTURE,
        "torch.arange(1, size + 1, dtype",
        "torch.arange(0, size, dtype",
        "The expected log determinant of a Wishart variable is off by one.",
    ),
    Mutation(
        MIXTURE,
        "constant = size * math.log(2) * half + torch.special.multigammaln(half, size)",
        "constant = size * math.log(2) * half",
        "The Wishart density lacks its gamma function.",
    ),
    Mutation(
        MIXTURE,
        "self.expected_log_det - size / self.strength - quadratic",
        "self.expected_log_det - quadratic",
        "The expected density of examples lacks the uncertainty of the mean.",
    ),
    Mutation(
        MIXTURE,
        "- 0.5 * (self.freedom - size - 1) * self.expected_log_det",
        "- 0.5 * (self.freedom - size) * self.expected_log_det",
        "The entropy of a Wishart distribution has an exponent that is off by one.",
    ),
    Mutation(
        MIXTURE,
        "+ 0.5 * self.freedom * size",
        "+ 0.5 * size",
        "The entropy of a Wishart distribution has the wrong expected trace.",
    ),
    Mutation(
        MIXTURE,
        'scatter + prior.strength * torch.einsum("cd,ce->cde", pull, pull)',
        "scatter",
        "The update of a component forgets the pull of the prior mean.",
    ),
    Mutation(
        MIXTURE,
        "prior.inverse_scale + scatter, prior.freedom + counts",
        "prior.inverse_scale + scatter, prior.freedom + counts + 1",
        "The update of a component has one degree of freedom too many.",
    ),
    Mutation(
        MIXTURE,
        "            - size * prior.strength / components.strength\n",
        "",
        "The expected prior of the means lacks their uncertainty.",
    ),
    Mutation(
        MIXTURE,
        "0.5 * (prior.freedom - size - 1) * log_det - 0.5 * trace",
        "0.5 * (prior.freedom - size) * log_det - 0.5 * trace",
        "The expected Wishart prior has an exponent that is off by one.",
    ),
    Mutation(
        MIXTURE,
        "torch.digamma(concentration) - torch.digamma(concentration.sum())",
        "concentration.log() - concentration.sum().log()",
        "The expected log proportions are the logarithms of the expected proportions.",
    ),
    Mutation(
        MIXTURE,
        "constant + (self.concentration - 1) * log_proportions.sum()",
        "(self.concentration - 1) * log_proportions.sum()",
        "The Dirichlet prior lacks its constant.",
    ),
    Mutation(
        REGRESSION,
        "self.concentration + 0.5 * count), self.rate",
        "self.concentration + count), self.rate",
        "The update of a precision counts every term twice.",
    ),
    Mutation(
        REGRESSION,
        "weights.mean.square().sum() + weights.variance.sum()",
        "weights.mean.square().sum()",
        "The expected square of the weights lacks their variances.",
    ),
    Mutation(
        REGRESSION,
        "shift.square().sum() + (inputs @ weights.scale_tril).square().sum()",
        "shift.square().sum()",
        "The expected square of the residuals lacks the variances of the weights.",
    ),
    Mutation(
        REGRESSION,
        "precision = alpha.mean + beta.mean * values.square()",
        "precision = alpha.mean + beta.mean * values",
        "The weights' precision has the singular values instead of their squares.",
    ),
    Mutation(
        REGRESSION,
        "0.5 * (likelihood + prior) + hyper[0] + hyper[1]",
        "0.5 * (likelihood + prior) + hyper[0]",
        "The bound of a regression lacks the prior of the noise's precision.",
    ),
    Mutation(
        BASE,
        "float(self.expected_log_joint(factors, x) + entropies.sum())",
        "float(self.expected_log_joint(factors, x) + entropies.mean())",
        "The bound has the mean of the factors' entropies.",
    ),
    Mutation(
        BASE,
        "if bound < before - _RELATIVE_ROUNDING_ERROR * max(1.0, abs(before)):",
        "if bound < before - max(1.0, abs(before)):",
        "An update that lowers the bound is accepted.",
    ),
]
