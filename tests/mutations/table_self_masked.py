"""Mutations of tables whose values may be missing because of their size."""

from __future__ import annotations

from mutation import Mutation

LIKELIHOOD = "conditionals/self_masked.py"
ROWS = "distributions/self_masked.py"

MUTATIONS = [
    # The log odds
    Mutation(
        LIKELIHOOD,
        "return _PACE * self.intercepts + self.compute_slopes() * size",
        "return _PACE * self.intercepts - self.compute_slopes() * size",
        "A positive slope means that small values are missing.",
    ),
    Mutation(
        LIKELIHOOD,
        'self._store("slopes", zeros + slope / _PACE)',
        'self._store("slopes", zeros + slope)',
        "A slope that is fixed is not the one that was asked for.",
    ),
    Mutation(
        LIKELIHOOD,
        "self.intercepts.copy_(log_odds[self.places] / _PACE)",
        "self.intercepts.copy_(log_odds[self.places])",
        "The log odds of numbers start at a multiple of those of the data.",
    ),
    Mutation(
        LIKELIHOOD,
        "value = (value.log1p() - self.centre) / self.spread",
        "value = value.log1p() - self.centre",
        "The slope of a count is not for one standard deviation.",
    ),
    Mutation(
        LIKELIHOOD,
        "math.sqrt(12) * (shares.clamp(max=1) - 0.5)",
        "shares.clamp(max=1) - 0.5",
        "The slope of ranks is not for one standard deviation.",
    ),
    Mutation(
        LIKELIHOOD,
        "/ (levels - 1).clamp(min=1)",
        "/ levels.clamp(min=1)",
        "The ranks of ordered categories are not centred.",
    ),
    Mutation(
        LIKELIHOOD,
        "table = torch.where(is_number, _NEVER, _PACE * self.logits)",
        "table = _PACE * self.logits",
        "The code that stands for a number has log odds beside those of the number.",
    ),
    Mutation(
        LIKELIHOOD,
        "self.logits.copy_((log_odds[self.places] / _PACE).expand_as(self.logits))",
        "self.logits.copy_(log_odds[self.places].expand_as(self.logits))",
        "The log odds of categories start at a multiple of those of the data.",
    ),
    # Which columns are missing
    Mutation(
        LIKELIHOOD,
        "return missing[..., self.first_entries]",
        "return missing",
        "The number of a column that is at an atom counts as missing.",
    ),
    Mutation(
        LIKELIHOOD,
        "known = missing | fields[OBSERVED][..., self.first_entries]",
        "known = torch.ones_like(missing)",
        "Entries of which nothing is known count as observed in the start.",
    ),
    # The density
    Mutation(
        ROWS,
        "-softplus(group.of_values(value[..., group.places]))",
        "-softplus(-group.of_values(value[..., group.places]))",
        "Observed values have the probability of being missing.",
    ),
    Mutation(
        ROWS,
        "is_missing = self.missing[..., places] & is_first",
        "is_missing = self.missing[..., places]",
        "A missing column with atoms is scored twice.",
    ),
    Mutation(
        ROWS,
        "added = torch.where(is_missing, self._log_missing(), added)",
        "added = torch.where(is_missing, 0.0, added)",
        "The bound lacks the terms of missing values.",
    ),
    Mutation(
        ROWS,
        "found.append((log_probs + _log_missing_by_code(group, of_numbers)).logsumexp(-2))",
        "found.append(_log_missing_by_code(group, of_numbers).logsumexp(-2))",
        "Missing categories are averaged without their probabilities.",
    ),
    Mutation(
        ROWS,
        "first = torch.where(group.numbers >= 0, own, by_code[0])",
        "first = by_code[0].expand_as(own)",
        "Missing numbers of columns with atoms have probability 0.",
    ),
    # Draws
    Mutation(
        ROWS,
        "logits = self._select(group).logits + _log_missing_by_code(group, of_numbers)",
        "logits = self._select(group).logits",
        "Draws of missing categories are those of observed ones.",
    ),
    Mutation(
        ROWS,
        "part.cells().draw(group.log_probability, draw_uniform)",
        "part.cells().draw(torch.zeros_like, draw_uniform)",
        "Draws of missing numbers are those of observed ones.",
    ),
    Mutation(
        ROWS,
        "torch.where(self.missing[..., group.places], drawn, rows[..., group.places])",
        "drawn",
        "Observed values are drawn as if they were missing.",
    ),
]
