"""Mutations of models of missing values: cells, draws, the mask's probability, sensitivity."""

from __future__ import annotations

from mutation import Mutation

CELLS, COUNTS, STUDENT = (
    "distributions/cells.py",
    "distributions/counts.py",
    "distributions/student.py",
)
DISTRIBUTION, LIKELIHOOD = "distributions/self_masked.py", "conditionals/self_masked.py"
TABLE, SENSITIVITY, BASELINE = (
    "models/table.py",
    "evaluation/sensitivity.py",
    "evaluation/baseline.py",
)
ROWS = "data/schema.py"

MUTATIONS = [
    Mutation(
        CELLS,
        "return (self.log_masses + log_function(self.values)).logsumexp(0)",
        "return (self.log_masses + log_function(self.values)).amax(0)",
        "An expectation over cells is its largest term.",
    ),
    Mutation(
        CELLS,
        "log_masses = (log_target + self.width.log()).log_softmax(0)",
        "log_masses = (self.log_density(self.node) + self.width.log()).log_softmax(0)",
        "The cells of tilted draws are chosen without the function.",
        equivalent="The chain corrects the proposals, only more slowly.",
    ),
    Mutation(
        CELLS,
        "return value, log_target - log_mass + width.log()",
        "return value, log_target - log_mass",
        "Proposals of draws are weighted as if all cells had the same width.",
    ),
    Mutation(
        STUDENT,
        "return self.loc + self.log_scale.exp() * root * torch.sinh(coordinate / root)",
        "return self.loc + root * torch.sinh(coordinate / root)",
        "The cells of Student's t have the scale 1.",
    ),
    Mutation(
        STUDENT,
        "return -self.degrees * (size + torch.log1p((-2 * size).exp()) - math.log(2))",
        "return -(self.degrees + 1) * (size + torch.log1p((-2 * size).exp()) - math.log(2))",
        "The density of the cells of Student's t lacks the slope of the coordinate.",
    ),
    Mutation(
        COUNTS,
        "log_slope = 0.5 * (above + above.square() / theta).log()",
        "log_slope = 0.5 * above.log()",
        "The cells of large counts have the slope of Poisson counts.",
    ),
    Mutation(
        COUNTS,
        "steps = torch.where(edge == -1, 1 - 1 / 24, torch.where(edge == 0, 1 / 24, 1.0))",
        "steps = torch.where(edge == 0, 0.0, torch.ones_like(edge))",
        "The sum over single counts and the integral above are joined without a correction.",
    ),
    Mutation(
        DISTRIBUTION,
        "if_seen = [-softplus(group.of_values(value[..., group.places])) for group in groups]",
        "if_seen = [-softplus(-group.of_values(value[..., group.places])) for group in groups]",
        "Observed values have the probability of being missing.",
    ),
    Mutation(
        DISTRIBUTION,
        "added = torch.where(self.observed[..., places], torch.cat(if_seen, -1), 0.0)",
        "added = torch.zeros_like(torch.cat(if_seen, -1))",
        "Nothing says that observed values are observed.",
    ),
    Mutation(
        DISTRIBUTION,
        "is_missing = self.missing[..., places] & is_first",
        "is_missing = self.missing[..., places]",
        "A missing column with atoms is scored twice.",
    ),
    Mutation(
        DISTRIBUTION,
        "first = torch.where(group.numbers >= 0, own, by_code[0])",
        "first = by_code[0].expand_as(own)",
        "A number in a column with atoms is never missing.",
    ),
    Mutation(
        DISTRIBUTION,
        "chosen = torch.where(self.missing[..., group.places], drawn, rows[..., group.places])",
        "chosen = rows[..., group.places]",
        "Missing values are drawn as if they were observed.",
    ),
    Mutation(
        LIKELIHOOD,
        "value = (value.log1p() - self.centre) / self.spread",
        "value = value.log1p()",
        "The log odds of counts are those of a logarithm that is not standardised.",
    ),
    Mutation(
        LIKELIHOOD,
        "self.intercepts.copy_(log_odds[self.places] / _PACE)",
        "self.intercepts.copy_(log_odds[self.places])",
        "Training starts from log odds that are five times too large.",
    ),
    Mutation(
        TABLE,
        "given[MISSING] = given.get(MISSING, ~given[OBSERVED]) & shown",
        "given[MISSING] = given.get(MISSING, ~given[OBSERVED])",
        "Columns that are hidden in training are shown to be missing.",
    ),
    Mutation(
        SENSITIVITY,
        "log_weights = log_weights - self.log_odds",
        "log_weights = log_weights + self.log_odds",
        "A slope is added to what the model has learned twice.",
    ),
    Mutation(
        BASELINE,
        "return own + _score_masks(examples) if MISSING in model.accepts else own",
        "return own",
        "The baseline of a model of missing values says nothing about the mask.",
    ),
    Mutation(
        ROWS,
        "fields[MISSING] = ~observed & (not partial)",
        "fields[MISSING] = ~observed",
        "What is not given of rows that are drawn counts as missing.",
    ),
]
