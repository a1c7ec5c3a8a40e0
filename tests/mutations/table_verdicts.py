"""Mutations of verdicts on posteriors: thresholds, errors, and what they follow from."""

from __future__ import annotations

from mutation import Mutation

VERDICT, REFERENCE = "evaluation/posterior_verdict.py", "evaluation/posterior_reference.py"

MUTATIONS = [
    Mutation(
        VERDICT,
        "MEAN_ERROR, SCALE_RATIO = 0.1, 1.1",
        "MEAN_ERROR, SCALE_RATIO = 0.3, 1.1",
        "A good posterior's means may be off by 0.3 standard deviations.",
    ),
    Mutation(
        VERDICT,
        "MEAN_ERROR, SCALE_RATIO = 0.1, 1.1",
        "MEAN_ERROR, SCALE_RATIO = 0.1, 1.5",
        "A good posterior's standard deviations may be off by a half.",
    ),
    Mutation(
        VERDICT,
        "NEAR_NATS = 0.05",
        "NEAR_NATS = 0.5",
        "A good posterior's gap may be half a nat.",
    ),
    Mutation(
        VERDICT,
        "_MISSED_SHARE, _ROUNDED_NATS = 0.05,",
        "_MISSED_SHARE, _ROUNDED_NATS = 0.5,",
        "A usable posterior may miss half of the posterior.",
    ),
    Mutation(
        VERDICT,
        "        if not self.is_reliable:\n",
        "        if False:\n",
        "A verdict is given although nothing represents the posterior.",
    ),
    Mutation(
        VERDICT,
        "gap=reference.log_evidence - elbo + ERRORS * error,",
        "gap=reference.log_evidence - elbo,",
        "The gap is judged without its error.",
    ),
    Mutation(
        REFERENCE,
        "(self.shares - self.shares_of_q).square().sum().sqrt()",
        "(self.shares - self.shares_of_q).square().sum()",
        "The error of the evidence is a variance.",
    ),
    Mutation(
        REFERENCE,
        "float(self.log_p.logsumexp(0) - self.log_q.logsumexp(0))",
        "float(self.log_p.logsumexp(0) - math.log(len(self.log_p)) + 0.01)",
        "The evidence is shifted by a hundredth of a nat.",
    ),
    Mutation(
        REFERENCE,
        "smallest - math.log(_LIMIT_ODDS) / count",
        "smallest - math.log(_LIMIT_ODDS)",
        "The lower limit of the evidence is that of a single block.",
    ),
    Mutation(
        REFERENCE,
        "ratio = 0.5 * (other_variance / variance).log()",
        "ratio = (other_variance / variance).log()",
        "The ratio of standard deviations is that of variances.",
    ),
    Mutation(
        REFERENCE,
        "shift = (other_mean - mean) / scale",
        "shift = other_mean - mean",
        "The error of a mean is not in standard deviations.",
    ),
    Mutation(
        REFERENCE,
        "float(1 / self.shares.square().sum())",
        "float(1 / self.shares.square().sum().sqrt())",
        "The effective number of points is a root.",
    ),
    Mutation(
        REFERENCE,
        "return self._log_weights <= math.log(samples)",
        "return self._log_weights <= samples",
        "Points are reached whose weight exceeds the number of draws.",
    ),
]
