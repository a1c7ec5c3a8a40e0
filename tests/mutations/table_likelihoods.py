"""Mutations of the likelihoods of counts, levels, positive and bounded values, and sequences."""

from __future__ import annotations

from mutation import Mutation

COUNTS, COUNT_PARTS = "distributions/counts.py", "conditionals/counts.py"
LEVELS, LEVEL_PARTS = "distributions/discretized.py", "conditionals/discretized.py"
ZEROS, ZERO_PARTS = "distributions/zeros.py", "conditionals/zeros.py"
CONTINUOUS, GAMMA = "distributions/continuous_bernoulli.py", "distributions/gamma.py"
STUDENT, SCALES = "distributions/student.py", "conditionals/location_scale.py"
POSITIVE, TAILS = "conditionals/positive.py", "conditionals/heavy_tails.py"
INTERVAL, ORDINAL = "conditionals/unit_interval.py", "conditionals/ordinal.py"
BINOMIAL, SEQUENCES = "conditionals/binomial.py", "distributions/sequences.py"
DECODER = "conditionals/autoregressive.py"

MUTATIONS = [
    # Counts
    Mutation(
        COUNTS,
        "constant = 0.5 * log_x + _HALF_LOG_2PI + compute_stirling_remainder(x)",
        "constant = 0.5 * log_x + _HALF_LOG_2PI",
        "A Poisson probability lacks the remainder of Stirling's formula.",
    ),
    Mutation(
        COUNTS,
        "return torch.where(value < 1, -self.mean, positive)",
        "return torch.where(value < 1, self.mean, positive)",
        "The Poisson probability of 0 has the wrong sign.",
    ),
    Mutation(
        COUNTS,
        "return 1 + torch.poisson((self.mean - first).clamp(min=0))",
        "return 1 + torch.poisson(self.mean)",
        "Positive Poisson draws start anew after the first arrival.",
    ),
    Mutation(
        COUNTS,
        "return self.mean + (2 * self.log_mean - self.log_inverse_dispersion).exp()",
        "return self.mean + (2 * self.log_mean + self.log_inverse_dispersion).exp()",
        "The variance of a negative binomial multiplies by the inverse dispersion.",
    ),
    Mutation(
        COUNTS,
        "zero = theta * logsigmoid(log_theta - self.log_mean)",
        "zero = logsigmoid(log_theta - self.log_mean)",
        "The negative binomial probability of 0 has no power.",
    ),
    Mutation(
        COUNTS,
        "scale = (self.log_mean - self.log_inverse_dispersion).exp()",
        "scale = self.log_mean.exp()",
        "The rates of negative binomial draws are too large by the inverse dispersion.",
    ),
    Mutation(
        COUNTS,
        "left = (theta + first / log_p).clamp(min=torch.finfo(theta.dtype).tiny)",
        "left = theta",
        "Positive negative binomial draws have too many arrivals after the first jump.",
    ),
    Mutation(
        "distributions/stirling.py",
        "exact = torch.lgamma(small + 1) - (small + 0.5) * small.log()",
        "exact = torch.lgamma(small) - (small + 0.5) * small.log()",
        "The remainder of Stirling's formula is that of the gamma function, not the factorial.",
    ),
    Mutation(
        COUNT_PARTS,
        "self._make_bounded(log_rate + self._align(exposure).to(raw.dtype).log(), *others)",
        "self._make_bounded(log_rate - self._align(exposure).to(raw.dtype).log(), *others)",
        "The mean of counts is the rate divided by the exposure.",
    ),
    Mutation(
        COUNT_PARTS,
        "return raw.chunk(2, -self.event_dims)",
        "return raw.chunk(2, -self.event_dims)[::-1]",
        "The first half of the outputs is the dispersion, and the second the rate.",
    ),
    Mutation(
        COUNT_PARTS,
        "means = torch.cat([log_rate + average_entries(exposure).log(), *others])",
        "means = outputs",
        "The weights are scaled for the rates instead of the means of the counts.",
    ),
    Mutation(
        BINOMIAL,
        "failures = self.trials - successes\n",
        "failures = self.trials + 1 - successes\n",
        "A binomial has one failure too many.",
    ),
    Mutation(
        BINOMIAL,
        "return smooth_frequencies(x / self.trials).logit()",
        "return smooth_frequencies(x).logit()",
        "A binomial starts at the number of all successes instead of that of one.",
    ),
    # Levels
    Mutation(
        LEVELS,
        "half = 0.5 / (self.levels - 1)\n        centred",
        "half = 0.5 / self.levels\n        centred",
        "The bins of discretised logistics do not touch each other.",
    ),
    Mutation(
        LEVELS,
        "return torch.where(is_first, below, torch.where(is_last, above, inner))",
        "return inner",
        "The first and the last level of discretised logistics lack their tails.",
    ),
    Mutation(
        LEVELS,
        "return (each + self.logits.log_softmax(self.axis)).logsumexp(self.axis)",
        "return (each + self.logits).logsumexp(self.axis)",
        "The weights of a mixture of logistics do not sum to 1.",
    ),
    Mutation(
        LEVELS,
        "share = torch.where(level > middle, beyond, beyond - 1)",
        "share = beyond",
        "Deviations for the variance of levels are not from the middle.",
    ),
    Mutation(
        LEVELS,
        "second = second + (2 * (level - middle) - 1) * share",
        "second = second + (2 * (level - middle) + 1) * share",
        "The second moment of levels sums the wrong odd numbers.",
    ),
    Mutation(
        LEVELS,
        "threshold = (level - 0.5) / (self.levels - 1)",
        "threshold = level / (self.levels - 1)",
        "The mean of levels has its thresholds at the levels.",
    ),
    Mutation(
        LEVEL_PARTS,
        "*logits, loc, log_scale = raw.split(",
        "*logits, log_scale, loc = raw.split(",
        "A network gives the log scales of logistics before their locations.",
    ),
    Mutation(
        LEVEL_PARTS,
        "_DEVIATION = math.pi / math.sqrt(3)",
        "_DEVIATION = math.sqrt(3) / math.pi",
        "The scale of a logistic at the start is too large.",
    ),
    Mutation(
        LEVEL_PARTS,
        "loc = mean + scale * places.logit()",
        "loc = mean + scale * 0 * places",
        "All components of a mixture of logistics start at the same place.",
    ),
    Mutation(
        ORDINAL,
        "+ (-torch.expm1(-gaps)).log()",
        "+ (torch.expm1(gaps)).log()",
        "The inner categories of an ordinal likelihood are too probable.",
    ),
    Mutation(
        ORDINAL,
        "distances = thresholds - raw.unsqueeze(axis)",
        "distances = thresholds + raw.unsqueeze(axis)",
        "A larger output of an ordinal likelihood makes lower categories probable.",
    ),
    Mutation(
        ORDINAL,
        "return first, softplus(gaps) + _SMALLEST_GAP",
        "return first, softplus(gaps)",
        "Two thresholds can coincide, and a category has probability 0.",
    ),
    Mutation(
        ORDINAL,
        "thresholds = frequencies[:-1].cumsum(0).logit()",
        "thresholds = frequencies[:-1].logit()",
        "The thresholds start at the frequencies instead of the cumulative ones.",
    ),
    Mutation(
        ORDINAL,
        "return (thresholds - below.logit()).mean(0)",
        "return (below.logit() - thresholds).mean(0)",
        "An ordinal likelihood starts on the wrong side of its thresholds.",
    ),
    # Positive and bounded values
    Mutation(
        GAMMA,
        "normalizer = 0.5 * a.log() - _HALF_LOG_TWO_PI - compute_stirling_remainder(a)",
        "normalizer = -0.5 * a.log() - _HALF_LOG_TWO_PI - compute_stirling_remainder(a)",
        "The normaliser of a gamma density has the wrong power of the concentration.",
    ),
    Mutation(
        GAMMA,
        "            - compute_stirling_remainder(b)\n",
        "",
        "The normaliser of a beta density lacks one remainder.",
    ),
    Mutation(
        POSITIVE,
        "concentration, concentration * (-log_mean).exp(), validate_args=False",
        "concentration, (-log_mean).exp(), validate_args=False",
        "The output of a gamma likelihood is not the logarithm of its mean.",
    ),
    Mutation(
        POSITIVE,
        "return mean.log(), estimate_variances(x / mean)",
        "return mean.log(), estimate_variances(x)",
        "The relative spread of a gamma likelihood starts at the spread in units of the data.",
    ),
    Mutation(
        POSITIVE,
        "return (value.log() - loc).abs()",
        "return (value - loc).abs()",
        "The optimal scale of a log-normal is that of the values instead of their logarithms.",
    ),
    Mutation(
        INTERVAL,
        "total * logit.sigmoid(), total * (-logit).sigmoid(), validate_args=False",
        "total * (-logit).sigmoid(), total * logit.sigmoid(), validate_args=False",
        "A beta likelihood exchanges its two concentrations.",
    ),
    Mutation(
        INTERVAL,
        "return mean.logit(), share / (1 - share)",
        "return mean.logit(), share",
        "The scale of a beta likelihood starts too small.",
    ),
    Mutation(
        CONTINUOUS,
        "return (value - 0.5) * self.logits - _find_log_sinhc(0.5 * self.logits)",
        "return (value - 0.5) * self.logits",
        "A continuous Bernoulli density is not normalised.",
    ),
    Mutation(
        CONTINUOUS,
        "return 0.5 + 0.5 * _find_first_derivative(0.5 * self.logits)",
        "return self.logits.sigmoid()",
        "The mean of a continuous Bernoulli is that of a Bernoulli.",
    ),
    Mutation(
        CONTINUOUS,
        "return 0.25 * _find_second_derivative(0.5 * self.logits)",
        "return 0.5 * _find_second_derivative(0.5 * self.logits)",
        "The variance of a continuous Bernoulli is twice too large.",
    ),
    Mutation(
        CONTINUOUS,
        "_SERIES = (1 / 6, -1 / 180, 1 / 2835",
        "_SERIES = (1 / 6, 1 / 180, 1 / 2835",
        "The series of a continuous Bernoulli near 0 has a wrong sign.",
    ),
    Mutation(
        CONTINUOUS,
        "closed = torch.where(is_positive, 1 - distance, distance)",
        "closed = distance",
        "Draws of a continuous Bernoulli of positive logit lie at the wrong end.",
    ),
    Mutation(
        CONTINUOUS,
        "variance * (1 - 6 * variance),",
        "variance * (1 - 3 * variance),",
        "Near a logit of 0 the draws of a continuous Bernoulli have a wrong gradient.",
    ),
    # Scales and tails
    Mutation(
        STUDENT,
        "tail = 0.5 * (self.degrees + 1) * torch.log1p(square / self.degrees)",
        "tail = 0.5 * self.degrees * torch.log1p(square / self.degrees)",
        "The tails of a Student t have the wrong power.",
    ),
    Mutation(
        STUDENT,
        "square = self.degrees * torch.expm1(2 * exponential / self.degrees)",
        "square = torch.expm1(2 * exponential / self.degrees)",
        "Draws of a Student t are too narrow.",
    ),
    Mutation(
        STUDENT,
        "ratio = self.degrees / torch.where(is_finite, self.degrees - 2, 1.0)",
        "ratio = self.degrees / torch.where(is_finite, self.degrees - 1, 1.0)",
        "The variance of a Student t is too small.",
    ),
    Mutation(
        STUDENT,
        "entries = tail.to(self.loc.dtype) + self.log_scale - self._log_constant()",
        "entries = tail.to(self.loc.dtype) - self._log_constant()",
        "The entropy of a Student t ignores its scale.",
    ),
    Mutation(
        TAILS,
        "return self.invert_mean(average_entries(x)), 0.5 * estimate_variances(x)",
        "return self.invert_mean(average_entries(x)), estimate_variances(x)",
        "The scale of a Laplace likelihood starts at the standard deviation.",
    ),
    Mutation(
        TAILS,
        "return location, estimate_variances(x) * (1 - 2 / degrees)",
        "return location, estimate_variances(x)",
        "The scale of a Student t starts at the standard deviation.",
    ),
    Mutation(
        SCALES,
        "log_variance = 2 / cast(int, self.optimal_power) * average.log()",
        "log_variance = average.log()",
        "The optimal scale of a likelihood has the power of a Gaussian's.",
    ),
    Mutation(
        SCALES,
        "self.deviation_weight.lerp_(torch.ones_like(self.deviation_weight), weight)",
        "self.deviation_weight.fill_(1.0)",
        "The average behind an optimal scale begins at 0.",
    ),
    Mutation(
        SCALES,
        "average = (powers * counts).sum() / total.clamp(min=1)",
        "average = (powers * counts).sum() / powers.numel()",
        "An optimal scale counts the missing entries.",
    ),
    Mutation(
        SCALES,
        'if self.scale == "optimal" and self.training and torch.is_grad_enabled():',
        'if self.scale == "optimal":',
        "An evaluation changes an optimal scale.",
    ),
    Mutation(
        SCALES,
        'self.register_buffer("deviation", torch.zeros(()))',
        'self.register_buffer("deviation", torch.zeros(()), persistent=False)',
        "An optimal scale is not saved.",
    ),
    # Zeros
    Mutation(
        ZEROS,
        "share * (self.base.variance + (1 - share) * self.base.mean.square())",
        "share * self.base.variance",
        "The variance of a gated likelihood lacks the variance between zeros and others.",
    ),
    Mutation(
        ZEROS,
        "return torch.where(is_zero, self.log_zero, self.log_share + other)",
        "return torch.where(is_zero, self.log_zero, other)",
        "Values other than 0 are not weighted by the open gate.",
    ),
    Mutation(
        ZEROS,
        "logsigmoid(self.gate), logsigmoid(-self.gate) + self._score_zero_of_base()",
        "logsigmoid(self.gate), self._score_zero_of_base()",
        "The zeros of an inflated likelihood count its own zeros in full.",
    ),
    Mutation(
        ZEROS,
        "masked_fill(u < gate.sigmoid(), 0.0)",
        "masked_fill(u > gate.sigmoid(), 0.0)",
        "Draws are 0 where the gate is open.",
    ),
    Mutation(
        ZERO_PARTS,
        "others = x.masked_fill(x == 0, torch.nan)",
        "others = x",
        "The likelihood behind a gate starts at all values, zeros included.",
    ),
    Mutation(
        ZERO_PARTS,
        "return ((zeros - own) / (1 - own)).nan_to_num(0.0).clamp(0.01, 0.99)",
        "return zeros",
        "The gate of an inflated likelihood starts as if it explained all zeros.",
    ),
    # Sequences
    Mutation(
        SEQUENCES,
        "return ends.cumsum(-1) - ends > 0",
        "return ends.cumsum(-1) > 0",
        "The end of a sequence is not scored.",
    ),
    Mutation(
        SEQUENCES,
        "impossible = torch.where(codes == self.end, 0.0, -torch.inf).to(terms.dtype)",
        "impossible = torch.zeros_like(terms)",
        "Codes after the end of a sequence are possible.",
    ),
    Mutation(
        SEQUENCES,
        "previous = previous.masked_fill(ended, self.end)",
        "previous = previous.clone()",
        "Drawn sequences go on after their end.",
    ),
    Mutation(
        DECODER,
        "previous = torch.cat([unknown, codes[..., :-1]], -1)",
        "previous = codes",
        "The decoder of a sequence sees the code that it predicts.",
    ),
    Mutation(
        DECODER,
        "if self.training and self.word_dropout:",
        "if self.word_dropout:",
        "Evaluations hide codes at random, too.",
    ),
    Mutation(
        DECODER,
        "((counts + 1) / (counts.sum() + self.levels)).log()",
        "(counts + 1) / (counts.sum() + self.levels)",
        "The logits of codes start at their frequencies.",
    ),
    Mutation(
        DECODER,
        "codes = codes[~find_positions_after(codes, self.end)]",
        "codes = codes.flatten()",
        "The padding after the end of a sequence counts for the start.",
    ),
]
