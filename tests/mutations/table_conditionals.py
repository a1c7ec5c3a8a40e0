"""Mutations of the conditionals: parameters of distributions, bijections, and given fields."""

from __future__ import annotations

from mutation import Mutation

GAUSSIAN, BIJECTIONS = "conditionals/gaussian.py", "conditionals/bijections.py"
GIVEN, SCALES = "conditionals/given.py", "conditionals/location_scale.py"

MUTATIONS = [
    Mutation(
        SCALES,
        "torch.tensor(math.log(self.scale))",
        "torch.tensor(2 * math.log(self.scale))",
        "A fixed scale is taken for a variance.",
    ),
    Mutation(
        SCALES,
        "            raw = raw.sigmoid()\n",
        "            raw = raw.tanh()\n",
        "The mean of data in [0, 1] may be negative.",
    ),
    Mutation(
        GAUSSIAN,
        "scale = bound_log_scale(self, log_variance).exp()",
        "scale = (2 * bound_log_scale(self, log_variance)).exp()",
        "The diagonal of a full-rank factor has variances instead of standard deviations.",
    ),
    Mutation(
        GAUSSIAN,
        "factor[..., rows, columns] = lower",
        "factor[..., columns, rows] = lower",
        "The factor of a full-rank Gaussian is an upper triangle.",
    ),
    Mutation(
        GAUSSIAN,
        "log_scale = bound_log_scale(self, log_variance)",
        "log_scale = 0.5 * bound_log_scale(self, log_variance)",
        "The diagonal of a low-rank covariance has sigma instead of sigma squared.",
    ),
    Mutation(
        GAUSSIAN,
        "columns.unflatten(-1, (size, self.rank))",
        "columns.unflatten(-1, (self.rank, size)).mT",
        "The columns of a low-rank covariance are read column by column.",
    ),
    Mutation(
        GAUSSIAN,
        "spread=0.01), rank)",
        "spread=0.0), rank)",
        "The columns of a low-rank posterior start at zero, where their gradient vanishes.",
    ),
    Mutation(
        SCALES,
        "log_variance, 2 * math.log(conditional.min_scale), 2",
        "log_variance, math.log(conditional.min_scale), 2",
        "The floor of a scale is its square root.",
    ),
    Mutation(
        SCALES,
        "return 0.5 * soft_clamp(",
        "return soft_clamp(",
        "The log variance is taken for the log scale.",
    ),
    Mutation(
        "conditionals/structured.py",
        "torch.argsort(torch.cat(groups)).tolist()",
        "torch.cat(groups).tolist()",
        "ByVariable puts the parts of a vector into the order of the groups.",
    ),
    Mutation(
        BIJECTIONS,
        "torch.arange(x.shape[-1], 0, -1, dtype",
        "torch.arange(1, x.shape[-1] + 1, dtype",
        "The offsets of stick-breaking have the wrong order, so 0 is not the uniform simplex.",
    ),
    Mutation(
        BIJECTIONS,
        "return log_odds + _log_counts(log_odds)",
        "return log_odds",
        "The inverse of stick-breaking lacks its offsets.",
    ),
    Mutation(
        BIJECTIONS,
        "rest = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]",
        "rest = 1 - y[..., :-1]",
        "The inverse of stick-breaking forgets the shares before.",
    ),
    Mutation(
        BIJECTIONS,
        "(logsigmoid(-shifted) + _log_shares(shifted)[..., :-1])",
        "(logsigmoid(shifted) + _log_shares(shifted)[..., :-1])",
        "The log determinant of stick-breaking has the wrong sign of its argument.",
    ),
    Mutation(
        BIJECTIONS,
        "return (below.tanh() + diagonal) * lengths.tril()",
        "return below.tanh() * lengths.tril() + diagonal",
        "The rows of a correlation matrix's factor are longer than 1.",
    ),
    Mutation(
        BIJECTIONS,
        "2 * _log_sech(below) + _log_lengths(below)",
        "_log_sech(below) + _log_lengths(below)",
        "The log determinant for correlation matrices counts the tangent's derivative half.",
    ),
    Mutation(
        BIJECTIONS,
        "torch.asinh(y[..., row, column] / rest",
        "torch.atanh(y[..., row, column] / rest",
        "The inverse for correlation matrices is not the inverse.",
    ),
    Mutation(
        "conditionals/variables.py",
        "log_det = log_det + change.reshape",
        "log_det = log_det - change.reshape",
        "The log determinant of a constrained variable has the wrong sign.",
    ),
    Mutation(
        "conditionals/flow.py",
        "to_full_precision(fn(tensor))",
        "fn(tensor)",
        "A flow in a model of low precision is in low precision.",
    ),
    Mutation(
        "conditionals/categorical.py",
        "raw.unflatten(-self.event_dims, (self.levels, -1))",
        "raw.unflatten(-self.event_dims, (-1, self.levels)).transpose(\n"
        "                -self.event_dims - 1, -self.event_dims\n            )",
        "The logits of levels are read with the levels last.",
    ),
    Mutation(
        GIVEN,
        "(value.unsqueeze(-1) == categories)",
        "(value.unsqueeze(-1) <= categories)",
        "Categories are coded as thermometers instead of one-hot.",
    ),
    Mutation(
        GIVEN,
        "            coded = coded.movedim(-1, 1)\n",
        "            pass\n",
        "The channels of an integer field with the size of a picture are mixed up.",
    ),
    Mutation(
        GIVEN,
        "appended.expand(*leading, *appended.shape[1:])], axis)",
        "appended.flip(0).expand(*leading, *appended.shape[1:])], axis)",
        "Examples get the fields of other examples.",
    ),
    Mutation(
        GIVEN,
        "MaskedDistribution(p, fields[OBSERVED])",
        "MaskedDistribution(p, fields[OBSERVED].flip(0))",
        "Examples get the masks of other examples.",
    ),
    Mutation(
        "conditionals/base.py",
        "    if value.dtype in LOW_PRECISION:\n        return value.float()\n",
        "",
        "Terms of a bound are computed in bfloat16.",
    ),
]
