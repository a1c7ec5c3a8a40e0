"""Mutations of disentanglement scores, refined posteriors, compression and baselines."""

from __future__ import annotations

from mutation import Mutation

FACTORS, DISENTANGLING = "evaluation/factor_scores.py", "evaluation/disentangling.py"
SEARCH, REFINING = "evaluation/search.py", "evaluation/refining.py"
COMPRESSION, BYTES = "evaluation/compression.py", "evaluation/compressed_bytes.py"
CODER = "evaluation/bits_back.py"
BASELINE, SPRITES = "evaluation/baseline.py", "data/sprites.py"

MUTATIONS = [
    Mutation(
        FACTORS,
        "gaps: Array = padded[-1] - padded[-2]",
        "gaps: Array = padded[-1] - padded[0]",
        "A gap is between the largest and the smallest score.",
    ),
    Mutation(
        FACTORS,
        "padded = np.sort(np.vstack([np.zeros_like(scores[0]), scores]), axis=0)",
        "padded = np.sort(np.vstack([np.zeros_like(scores[0]), scores]), axis=1)",
        "Gaps compare factors instead of units.",
    ),
    Mutation(
        FACTORS,
        "gaps: Array = compute_gaps(information) / np.array(entropies)",
        "gaps: Array = compute_gaps(information)",
        "MIG is not divided by the entropies of the factors.",
    ),
    Mutation(
        FACTORS,
        "return _measure_entropy(joint.sum(0)) + _measure_entropy(joint.sum(1))",
        "return 2 * _measure_entropy(joint.sum(0))",
        "The mutual information counts one entropy twice.",
    ),
    Mutation(
        FACTORS,
        "return float(-(positive * np.log(positive)).sum())",
        "return float(-(positive * np.log2(positive)).sum())",
        "Entropies are in bits.",
    ),
    Mutation(
        FACTORS,
        "np.minimum((share * bins).astype(np.int64), bins - 1)",
        "(share * bins).astype(np.int64)",
        "The largest code has a bin of its own.",
    ),
    Mutation(
        FACTORS,
        "squares = information**2",
        "squares = information",
        "Modularity is of the information instead of its square.",
    ),
    Mutation(
        FACTORS,
        "scale = best * (squares.shape[1] - 1)",
        "scale = best * squares.shape[1]",
        "Modularity divides by one factor too many.",
    ),
    Mutation(
        FACTORS,
        "scores[unit, column] = _correlate(train[:, unit], values) ** 2",
        "scores[unit, column] = _correlate(train[:, unit], values)",
        "SAP takes the correlation of a numeric factor instead of its square.",
    ),
    Mutation(
        FACTORS,
        'average="macro", zero_division=0',
        'average="micro", zero_division=0',
        "SAP weights categories by their frequencies.",
    ),
    Mutation(
        FACTORS,
        "thresholds.fit(train[:, [unit]], values).predict(test[:, [unit]])",
        "thresholds.fit(train, values).predict(test)",
        "SAP predicts a category from all units.",
    ),
    Mutation(
        FACTORS,
        "return float((_concentrate(importance) * weights / weights.sum()).sum())",
        "return float(_concentrate(importance).mean())",
        "Units that matter to no factor count fully in disentanglement.",
    ),
    Mutation(
        FACTORS,
        "return compute_disentanglement(importance.T)",
        "return compute_disentanglement(importance)",
        "Completeness is disentanglement.",
    ),
    Mutation(
        FACTORS,
        "concentration: Array = 1 - entropies / np.log(weights.shape[1])",
        "concentration: Array = 1 - entropies",
        "The entropies of DCI are not in units of their maximum.",
    ),
    Mutation(
        FACTORS,
        "varying = codes[:, variances > 0] / np.sqrt(variances[variances > 0])",
        "varying = codes[:, variances > 0]",
        "The FactorVAE score compares units of different spreads.",
    ),
    Mutation(
        FACTORS,
        "table[number, varying[batch].var(0).argmin()] += 1",
        "table[number, varying[batch].var(0).argmax()] += 1",
        "The FactorVAE score votes for the unit that varies most.",
    ),
    Mutation(
        FACTORS,
        "return float(tested[learned.argmax(0), np.arange(varying.shape[1])].sum() / tested.sum())",
        "return float(learned[learned.argmax(0), np.arange(varying.shape[1])].sum() / "
        "learned.sum())",
        "The FactorVAE score is that of the votes it was learned from.",
    ),
    Mutation(
        FACTORS,
        "split = (order[len(order) // 2 :], order[: len(order) // 2])",
        "split = (order, order)",
        "Scores are tested on the examples from which they were learned.",
    ),
    Mutation(
        DISENTANGLING,
        "codes = model.encode(examples.subset(index))",
        "codes = model.encode(examples.first(len(index)))",
        "The codes are those of other examples than the factors.",
    ),
    # Refinement
    Mutation(
        SEARCH,
        "is_clear = torch.isfinite(found) & ~(found - amortised <= _CLEAR_ERRORS * error)",
        "is_clear = torch.isfinite(found)",
        "A refined posterior is kept although its bound is lower.",
    ),
    Mutation(
        SEARCH,
        "torch.where(is_clear, found, amortised)])",
        "found])",
        "The bound of a refined posterior is that of one that was not kept.",
    ),
    Mutation(
        SEARCH,
        "scatter = squares - (bounds[1] - bounds[0]).square() / self.samples",
        "scatter = squares",
        "The error of a gain contains the gain.",
    ),
    Mutation(
        SEARCH,
        "(scatter.clamp(min=0) / (self.samples * max(self.samples - 1, 1))).sqrt()",
        "(scatter.clamp(min=0) / max(self.samples - 1, 1)).sqrt()",
        "The error of a gain is that of one draw.",
    ),
    Mutation(
        REFINING,
        "return Estimate(self.bound.per_example - self.amortised_bound.per_example)",
        "return Estimate(self.amortised_bound.per_example - self.bound.per_example)",
        "The gain of refinement has the wrong sign.",
    ),
    # Compression
    Mutation(
        COMPRESSION,
        "-evaluate(model, ELBO(), examples).mean * len(examples) / (8 * math.log(2))",
        "-evaluate(model, ELBO(), examples).mean * len(examples) / 8",
        "The bytes of the bound are counted in nats.",
    ),
    Mutation(
        CODER,
        "rounded = (table.reshape(-1, self.levels) * _PER_PROBABILITY).round() + 1",
        "rounded = (table.reshape(-1, self.levels) * 16).round() + 1",
        "Probabilities are rounded coarsely.",
    ),
    Mutation(
        CODER,
        "for group, coarseness in reversed(groups):",
        "for group, coarseness in groups:",
        "The groups are popped in the order in which they were pushed.",
    ),
    Mutation(
        CODER,
        "if stack.num_valid_bits() < _STATE_BITS + SURPLUS * needed:",
        "if False:",
        "Groups grow before the stack has the bits of their latents.",
    ),
    Mutation(
        "evaluation/latent_grid.py",
        "half = min(self.cells, math.ceil(_DEVIATIONS_OF_Q * 2.0**power))",
        "half = self.cells",
        "Latents can land far from their posteriors.",
    ),
    Mutation(
        CODER,
        "if len(left) < _STATE_BITS // 32 or not np.array_equal(left, first):",
        "if False:",
        "Wrong decompressed data are not noticed.",
    ),
    Mutation(
        BYTES,
        "        digest.update(value.detach().cpu().contiguous().reshape(-1)"
        ".view(torch.uint8).numpy())\n",
        "        pass\n",
        "Another model's weights are not noticed.",
    ),
    # Baselines
    Mutation(
        BASELINE,
        "scores = -0.5 * (2 * math.pi * math.e * variance[varies]).log()",
        "scores = -0.5 * (2 * math.pi * variance[varies]).log()",
        "The baseline of a Gaussian lacks half a nat.",
    ),
    Mutation(
        BASELINE,
        "others = (counts - 1 + 1 / levels).clamp(min=1 / levels) / total",
        "others = counts.clamp(min=1 / levels) / total",
        "A row is scored by a frequency that contains it.",
    ),
    Mutation(
        BASELINE,
        "return (observed * scores.nan_to_num(0.0) - parameters) / len(x)",
        "return (observed * scores.nan_to_num(0.0)) / len(x)",
        "The baseline does not pay for its parameters.",
    ),
    # Sprites
]
