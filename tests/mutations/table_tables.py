"""Mutations of tables: schema, columns, models, imputations, scores, and scikit-learn."""

from __future__ import annotations

from mutation import Mutation

COLUMN, INFERENCE, SCHEMA = "data/columns.py", "data/inference.py", "data/schema.py"
KNOWN = "data/known_columns.py"
NUMBER_TYPES = "data/number_types.py"
LIKELIHOOD, ROWS = "conditionals/columns.py", "distributions/columns.py"
INPUTS, CYCLES = "conditionals/column_inputs.py", "data/cycles.py"
SEASONAL, PHASES = "distributions/seasonal.py", "distributions/phases.py"
MODEL, IMPUTING = "models/table.py", "evaluation/imputing.py"
POOLING = "evaluation/pooling.py"
ROW_SCORES, COLUMN_SCORES = "evaluation/row_scores.py", "evaluation/column_scores.py"
SENSITIVITY, BASELINE = "evaluation/sensitivity.py", "evaluation/baseline.py"
OUTLIERS, FITTING = "sklearn/outliers.py", "sklearn/fitting.py"

MUTATIONS = [
    # Columns
    Mutation(
        COLUMN,
        "has_value = seen & (codes == 0)",
        "has_value = seen",
        "Atoms are also observed values of the density.",
    ),
    Mutation(
        COLUMN,
        "return (raw - self.centre) / self.spread",
        "return raw - self.centre",
        "Values are centred and not scaled.",
    ),
    Mutation(
        COLUMN,
        "raw = np.log(raw) - np.log1p(-raw)",
        "raw = np.log(raw)",
        "Proportions have their logarithm in place of their logit.",
    ),
    Mutation(
        COLUMN,
        "return 0.25 * (find_period(self.cycles) or self.step) / self.spread",
        "return 0.25 * (find_period(self.cycles) or self.step)",
        "The smallest scale of rounded values is not standardised.",
    ),
    Mutation(
        COLUMN,
        "sorted((each for each in self.columns if each.is_modelled), key=lambda each: each.name)",
        "each for each in self.columns if each.is_modelled",
        "The model depends on the order of the columns.",
    ),
    Mutation(
        COLUMN,
        "np.where(codes == 0, drawn, np.array((0.0, *self.atoms))[codes])",
        "np.where(codes == 0, drawn, np.array((*self.atoms, 0.0))[codes])",
        "Atoms come back as their neighbours.",
    ),
    Mutation(
        COLUMN,
        "return np.clip(raw, self.low - width, self.high + width)",
        "return np.clip(raw, self.low, self.high)",
        "Draws never leave the range of the values seen.",
    ),
    Mutation(
        COLUMN,
        "raw, lowest, highest = grid.round(raw), ",
        "raw, lowest, highest = grid.round(raw - step / 2), ",
        "Draws of rounded columns are rounded down.",
    ),
    # Inference of types
    Mutation(
        NUMBER_TYPES,
        "and seen.var() >= seen.mean():",
        "and seen.var() < seen.mean():",
        "Whole numbers that vary less than counts do are counts.",
    ),
    Mutation(
        NUMBER_TYPES,
        "if low >= 0 and high <= 1:",
        "if high <= 1:",
        "Numbers below 0 are proportions.",
    ),
    Mutation(
        NUMBER_TYPES,
        "(without_zeros or _has_many_zeros(seen))",
        "without_zeros",
        "Amounts that are often 0 are real numbers.",
    ),
    Mutation(
        INFERENCE,
        "frequent = counts >= count_of_atom(len(seen))",
        "frequent = counts >= 2",
        "Two equal values are an atom.",
    ),
    Mutation(
        INFERENCE,
        "rest = seen[~np.isin(seen, column.atoms)]",
        "rest = seen[seen > 0]",
        "The mean and the spread include the values of atoms.",
    ),
    Mutation(
        INFERENCE,
        "if len(counts) > (1.0 if few else _IDENTIFIER_SHARE) * len(values):",
        "if len(counts) > len(values):",
        "Text whose values all differ is modelled.",
    ),
    Mutation(
        INFERENCE,
        "if len(categories) < 2 or (asked is None and len(counts) < 2):",
        "if len(categories) < 1:",
        "A column with a single category is modelled.",
    ),
    Mutation(
        INFERENCE,
        "kept = tuple(each for each in categories if counts[each] >= _RARE)",
        "kept = categories",
        "No category of the training is one of the others, which are never learned.",
    ),
    # Reading tables
    Mutation(
        SCHEMA,
        "        if column.name in table:\n            place = schema.places[column.name]\n"
        "            raw = read_column(table[column.name], column, schema.missing_values)",
        "        if column.name in table:\n            place = schema.places[column.name]\n"
        "            raw = read_column(table[column.name], column, ())",
        "Placeholders of missing values are read as values.",
    ),
    Mutation(
        SCHEMA,
        "    if absent and not partial:",
        "    if absent and partial:",
        "A column that the table does not have is not reported.",
    ),
    Mutation(
        KNOWN,
        "codes[row] = len(column.categories) if code is None else code",
        "codes[row] = 0 if code is None else code",
        "Unknown categories are the first one instead of the others.",
    ),
    Mutation(
        KNOWN,
        "    if bool(zone) == bool(column.zone):",
        "    if True:",
        "Times without a zone are mixed with times that have one.",
    ),
    Mutation(
        SCHEMA,
        "if table.library is None and schema.library is not None:",
        "if False:",
        "An array is matched to the columns of a frame by position.",
    ),
    # The likelihood
    Mutation(
        ROWS,
        "return torch.where(self.transforms == LOGIT, both, log) - self.log_spread",
        "return torch.where(self.transforms == LOGIT, both, log)",
        "Log probabilities lack the spread of a column.",
    ),
    Mutation(
        ROWS,
        "log = torch.where(self.transforms == LOG, -transformed, 0.0)",
        "log = torch.where(self.transforms == LOG, transformed, 0.0)",
        "The slope of the logarithm has the wrong sign.",
    ),
    Mutation(
        ROWS,
        "both = softplus(transformed) + softplus(-transformed)",
        "both = 2 * softplus(transformed)",
        "The slope of the logit is not symmetric.",
    ),
    Mutation(
        LIKELIHOOD,
        "degrees = torch.where(self.has_tails, log_degrees.exp(), _DEGREES[1])",
        "degrees = log_degrees.exp()",
        "Positive numbers have heavy tails too.",
    ),
    Mutation(
        LIKELIHOOD,
        'yield logits.masked_fill(~getattr(self, f"exists_{ordered}"), _IMPOSSIBLE)',
        "yield logits",
        "Ordered columns with few categories give probability to ones that do not exist.",
    ),
    Mutation(
        LIKELIHOOD,
        "logits = base + slope * ranks - curvature * ranks.square()",
        "logits = base + slope * ranks",
        "Ordered categories have no curvature.",
    ),
    Mutation(
        INPUTS,
        "return torch.cat([inputs * observed[..., self.columns], observed], -1)",
        "return torch.cat([inputs, observed], -1)",
        "The encoder sees the values that stand in place of missing ones.",
    ),
    Mutation(
        INPUTS,
        "numbers = torch.where(self.is_count, values.clamp(min=0).log1p(), values)",
        "numbers = values",
        "The encoder sees counts instead of their logarithms.",
    ),
    Mutation(
        LIKELIHOOD,
        "outputs += [average_entries(values), 0.5 * estimate_variances(values).log()]",
        "outputs += [average_entries(values), estimate_variances(values).log()]",
        "Scales start at the variance of a column.",
    ),
    # Times
    Mutation(
        INPUTS,
        "inputs = torch.where(self.levels == _SINE, angles.sin(), inputs)",
        "inputs = torch.where(self.levels == _SINE, angles.cos(), inputs)",
        "The encoder cannot tell the morning from the evening.",
    ),
    Mutation(
        CYCLES,
        'return PERIODS[season] / WEEKDAYS if "week" in cycles else PERIODS[season]',
        "return PERIODS[season]",
        "Seasons of times with weekdays last seven years.",
    ),
    Mutation(
        CYCLES,
        'if first == "year" or span < _MANY_PERIODS * PERIODS[first]:',
        'if first == "year":',
        "Times of a few weeks are split into weeks, so that trends within a week are lost.",
    ),
    Mutation(
        CYCLES,
        "weekday = (day + _FIRST_WEEKDAY) % WEEKDAYS",
        "weekday = day % WEEKDAYS",
        "Weeks begin on Thursdays.",
    ),
    Mutation(
        CYCLES,
        "numbers[0] = numbers[0] * DAY",
        'numbers[0] = numbers[0] * (WEEK if "week" in cycles else DAY)',
        "The density of times with weekdays is seven times too small.",
    ),
    Mutation(
        CYCLES,
        "day = np.round(numbers[:, 0] / DAY)",
        "day = numbers[:, 0] / DAY",
        "Drawn times are not at a weekday and an hour.",
    ),
    Mutation(
        CYCLES,
        'share = numbers[:, -1] if "day" in cycles else example / DAY % 1',
        'share = numbers[:, -1] if "day" in cycles else 0.0',
        "Drawn dates are at midnight, at whatever hour those of the data are.",
    ),
    Mutation(
        CYCLES,
        "closest <= YEAR / 2",
        "closest <= 2 * YEAR",
        "Dates once a year have a season.",
    ),
    Mutation(
        COLUMN,
        "np.clip(number, first + period, last - period)",
        "number",
        "Drawn weeks may be centuries away.",
    ),
    Mutation(
        SEASONAL,
        "return u / torch.sinh(u), u / torch.tanh(u)",
        "return torch.ones_like(u), u / torch.tanh(u)",
        "Seasons are normalised as if the time were known exactly.",
    ),
    Mutation(
        SEASONAL,
        "ratio = v * most / self._weigh(proposed)",
        "ratio = v / self._weigh(proposed)",
        "Draws have too little of the seasons.",
    ),
    Mutation(
        SEASONAL,
        "imaginary = imaginary + a[1] * b[0] - a[0] * b[1]",
        "imaginary = imaginary + a[0] * b[1] - a[1] * b[0]",
        "The normalising constant has its seasons the other way round.",
    ),
    Mutation(
        SEASONAL,
        "series = -1 / 3 + square * (7 / 30 - square * 31 / 504)",
        "series = -1 / 3 - square * (7 / 30 - square * 31 / 504)",
        "The variance of a time that is known well is a little wrong.",
    ),
    Mutation(
        SEASONAL,
        "average = self._sum_waves(locate(node), lambda m: (torch.sinc(m * half), 0.0))",
        "average = self._weigh(locate(node))",
        "An expectation takes the season at the node of a cell instead of its average.",
    ),
    Mutation(
        PHASES,
        "phases = ((knots + u + v - 1) / self.levels) % 1",
        "phases = ((knots + u) / self.levels) % 1",
        "Draws of hours are uniform after the knot.",
    ),
    Mutation(
        PHASES,
        "first[0], second[0] = 0.5, 0.5 - width / 3 + width**2 / 6",
        "first[0], second[0] = 0.0, width**2 / 6",
        "The moments of phases forget that 1 is 0.",
    ),
    Mutation(
        "conditionals/moments.py",
        "joint = joint / joint.sum(0).where(seen, 1.0)",
        "joint = shares",
        "Phases are estimated by shares instead of the largest likelihood.",
    ),
    Mutation(
        "conditionals/self_masked.py",
        "if entries[number].column in incomplete and not entries[number].is_phase",
        "if entries[number].column in incomplete",
        "A missing time is scored by its weekday as well.",
    ),
    # The model
    Mutation(
        MODEL,
        "if self.training and self.hide and OBSERVED in given:",
        "if self.hide and OBSERVED in given:",
        "Entries are hidden in evaluations too.",
    ),
    Mutation(
        MODEL,
        "given[OBSERVED] = given[OBSERVED] & shown",
        "given[OBSERVED] = shown",
        "Entries that are not observed are scored in training.",
    ),
    Mutation(
        MODEL,
        "shares = torch.rand(rows, 1, device=device) * chosen",
        "shares = torch.rand(rows, 1, device=device)",
        "Entries of every row are hidden in training.",
    ),
    Mutation(
        MODEL,
        "                new = torch.where(observed, x, new)\n            yield new, draw.log_w",
        "                new = torch.where(observed, x, new)\n            yield new, -draw.log_w",
        "Reported weights are the inverse of the weights.",
    ),
    Mutation(
        MODEL,
        "effective: Tensor = 1 / shares.square().sum(0)",
        "effective: Tensor = 1 / shares.sum(0)",
        "The effective sample size is always 1.",
    ),
    Mutation(
        MODEL,
        "shares = log_w.masked_fill(impossible, 0.0).softmax(0).cumsum(0)",
        "shares = torch.zeros_like(log_w).softmax(0).cumsum(0)",
        "Latents of completed rows are chosen regardless of their weights.",
    ),
    Mutation(
        MODEL,
        "made = make_table_like(rows, drawn, self.schema, keeps_entries=True)",
        "made = rows",
        "Entries that are missing in the condition stay missing.",
    ),
    Mutation(
        MODEL,
        "parts.append(values.transpose(0, 1).flatten(0, 1))",
        "parts.append(values.flatten(0, 1))",
        "Draws of the rows of a condition are mixed up.",
    ),
    # Imputing
    Mutation(
        IMPUTING,
        "return self.incomplete & (few | (heavy & uneven))",
        "return few | (heavy & uneven)",
        "Complete rows are reported as doubtful.",
    ),
    Mutation(
        IMPUTING,
        '    "count": "median",\n',
        "",
        "Counts are imputed by their mean.",
    ),
    Mutation(
        IMPUTING,
        "{name: values[number] for name, values in columns.items()} for number",
        "{name: values[0] for name, values in columns.items()} for number",
        "All tables have the same draws.",
    ),
    Mutation(
        POOLING,
        "return self.within + (1 + 1 / self.tables) * self.between",
        "return self.within + self.between",
        "Rubin's variance ignores that the number of tables is finite.",
    ),
    Mutation(
        POOLING,
        "degrees = np.where(between > 0, (tables - 1) * (1 + ratio) ** 2, math.inf)",
        "degrees = np.where(between > 0, tables * (1 + ratio) ** 2, math.inf)",
        "Rubin's degrees of freedom are one table too many.",
    ),
    Mutation(
        POOLING,
        "within, between = own.mean(0), values.var(0, ddof=1)",
        "within, between = own.mean(0), values.var(0)",
        "The variance between tables is divided by their number.",
    ),
    Mutation(
        POOLING,
        "width = stats.t.ppf(0.5 + level / 2, self.degrees) * self.standard_error",
        "width = stats.t.ppf(level, self.degrees) * self.standard_error",
        "Intervals of pooled estimates are one-sided.",
    ),
    # Scores
    Mutation(
        ROW_SCORES,
        "others = total - without.logsumexp(0)",
        "others = (log_w + own).logsumexp(0) - total",
        "A value is scored given all values of its row, itself included.",
    ),
    Mutation(
        ROW_SCORES,
        'results[f"column {name}"] = others.masked_fill(~seen, math.nan)',
        'results[f"column {name}"] = others',
        "Values that are not observed have a score.",
    ),
    Mutation(
        ROW_SCORES,
        "            if len(rows):",
        "            if False:",
        "Values that decide what z can be are scored by these z.",
    ),
    Mutation(
        ROW_SCORES,
        "return (1 / effective - 1 / samples).clamp(min=0).sqrt()",
        "return (1 / effective).sqrt()",
        "Equal weights have a standard error.",
    ),
    Mutation(
        ROW_SCORES,
        "    seen[:, place] = False\n",
        "",
        "A column is predicted given its own value.",
    ),
    # Sensitivity
    Mutation(
        SENSITIVITY,
        "log_weights = slope * scores",
        "log_weights = -slope * scores",
        "A positive slope means that small values are missing.",
    ),
    Mutation(
        SENSITIVITY,
        "shares: Floats = weights / weights.sum(0)",
        "shares: Floats = weights / len(weights)",
        "Tilted means are not normalised.",
    ),
    Mutation(
        SENSITIVITY,
        "ndtri((0.5 * (below + up_to) + 0.5) / (len(observed) + 1))",
        "ndtri((up_to + 0.5) / (len(observed) + 1))",
        "Equal values do not share a rank.",
    ),
    # scikit-learn
    Mutation(
        FITTING,
        "    return replace(examples, rows=torch.zeros(len(examples), dtype=torch.int64))",
        "    return examples",
        "The results for a row depend on its position.",
    ),
    Mutation(
        FITTING,
        'warm = self.warm_start and hasattr(self, "model_")',
        "warm = False",
        "warm_start starts anew.",
    ),
    Mutation(
        OUTLIERS,
        "self.offset_ = float(np.quantile(scores, self.contamination))",
        "self.offset_ = float(np.quantile(scores, 1 - self.contamination))",
        "The threshold is at the other end of the scores.",
    ),
]
