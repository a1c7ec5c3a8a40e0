"""Mutations of the start from the data, of units, and of networks."""

from __future__ import annotations

from mutation import Mutation

STANDARDIZED, RESCALED = "conditionals/standardized.py", "distributions/rescaled.py"
STANDARDIZING, MOMENTS = "models/standardizing.py", "conditionals/moments.py"
DATA_START, UNITS = "training/data_start.py", "training/units.py"
BIASES, CONVOLUTIONAL = "networks/biases.py", "networks/convolutional.py"
RESIDUAL, ATTENTION = "networks/residual.py", "networks/attention.py"
RECURRENT, CONSTANTS = "networks/recurrent.py", "networks/constants.py"

MUTATIONS = [
    Mutation(
        RESCALED,
        "return self.base.log_prob((value - self.centre) / self.spread) - logs.sum()",
        "return self.base.log_prob((value - self.centre) / self.spread)",
        "The bound of standardised data lacks the Jacobian.",
    ),
    Mutation(
        RESCALED,
        "logs = self.spread.log().expand(self.event_shape)",
        "logs = self.spread.log()",
        "The Jacobian of standardised pictures counts each channel once.",
    ),
    Mutation(
        RESCALED,
        "return terms - self.spread.log()",
        "return terms",
        "The entries of standardised data lack the Jacobian.",
    ),
    Mutation(
        RESCALED,
        "return self.spread.square() * self.base.variance",
        "return self.spread * self.base.variance",
        "The variance in units of the data is not multiplied by the square.",
    ),
    Mutation(
        RESCALED,
        "return self.centre + self.spread * y",
        "return self.spread * y",
        "Samples of standardised data lack their centre.",
    ),
    Mutation(
        STANDARDIZED,
        "is_constant = ~(spread > 1e-7 * mean.abs())",
        "is_constant = ~(spread > 0)",
        "A constant column is divided by the rounding errors of its spread.",
    ),
    Mutation(
        STANDARDIZED,
        "return x.masked_fill(~fields[OBSERVED], 0.0)",
        "return x",
        "Missing entries are standardised like observed ones.",
    ),
    Mutation(
        STANDARDIZED,
        "super().start_from(self.standardization.apply_to(x), **fields)",
        "super().start_from(x, **fields)",
        "A standardised likelihood starts at data in their own units.",
    ),
    Mutation(
        MOMENTS,
        "return mean.where(~mean.isnan(), x.nanmean()).nan_to_num(0.0)",
        "return mean.nan_to_num(0.0)",
        "An entry that was never observed starts at 0.",
    ),
    Mutation(
        MOMENTS,
        "return variance.where(varies, average / (count_observed(x) + 1))",
        "return variance.where(varies, average)",
        "A constant entry starts with the spread of the others.",
    ),
    Mutation(
        MOMENTS,
        "return (x.nansum(0) + 0.5) / (count_observed(x) + 1)",
        "return (x.nansum(0) + 0.5) / (len(x) + 1)",
        "Frequencies count the missing entries.",
    ),
    Mutation(
        MOMENTS,
        "cells = places[seen] * levels + entries[seen].round().long()",
        "cells = places[seen] + entries[seen].round().long()",
        "The levels of different entries are counted together.",
    ),
    Mutation(
        MOMENTS,
        "frequencies = (counts + overall) / (counts.sum(1, keepdim=True) + 1)",
        "frequencies = counts / counts.sum(1, keepdim=True)",
        "A level that an entry never had starts at probability 0.",
    ),
    Mutation(
        UNITS,
        "spreads.log().abs()",
        "spreads.log()",
        "Data with small units are not reported.",
    ),
    Mutation(
        UNITS,
        "(spreads < high / _LARGEST_FACTOR) | (spreads > low * _LARGEST_FACTOR)",
        "spreads > math.inf",
        "Columns whose spreads differ are not reported.",
    ),
    Mutation(
        BIASES,
        "last = layers[-1]",
        "last = layers[0]",
        "The first layer's bias starts from the data.",
    ),
    Mutation(
        BIASES,
        "return values.flatten(1).mean(1)",
        "return values.flatten(1)[:, 0]",
        "A channel's bias starts at its first pixel.",
    ),
    Mutation(
        BIASES,
        '        if getattr(last, "transposed", False):\n            rows = rows.transpose(0, 1)\n',
        "",
        "The weights of a transposed convolution are scaled along the wrong axis.",
    ),
    Mutation(
        BIASES,
        "            rows.mul_(flat.reshape(-1, *(1,) * (rows.dim() - 1)))\n",
        "            pass\n",
        "The last layer's weights are not scaled by steps of a nat.",
    ),
    # Networks
    Mutation(
        ATTENTION,
        "F.scaled_dot_product_attention(queries, keys, values, is_causal=True)",
        "F.scaled_dot_product_attention(queries, keys, values)",
        "The attention of a decoder sees the codes that it predicts.",
    ),
    Mutation(
        ATTENTION,
        "keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)",
        "keys, values = keys, values + 0 * past[1][:, :, -1:]",
        "While codes are drawn, attention sees only the last one.",
    ),
    Mutation(
        ATTENTION,
        "return logits, (z, position + 1, known)",
        "return logits, (z, position, known)",
        "All drawn codes have the first position.",
    ),
    Mutation(
        ATTENTION,
        "joint = self.project(self.norm(h)).unflatten(-1, (3, self.heads, -1))",
        "joint = self.project(h).unflatten(-1, (3, self.heads, -1))",
        "The input of attention is not normalised.",
    ),
    Mutation(
        RECURRENT,
        "return logits, (at_every_step, hidden)",
        "return logits, (at_every_step, None)",
        "While codes are drawn, a recurrent decoder forgets the earlier ones.",
    ),
    Mutation(
        RECURRENT,
        "step = self.table(previous) + at_every_step",
        "step = self.table(previous)",
        "While codes are drawn, a recurrent decoder does not see z.",
    ),
]
