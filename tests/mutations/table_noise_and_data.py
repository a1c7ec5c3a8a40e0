"""Mutations of random numbers and data: streams, foreign noise, pixels, splits and selections."""

from __future__ import annotations

from mutation import Mutation

STREAMS, FOREIGN = "runtime/noise/streams.py", "runtime/noise/foreign.py"
PHILOX = "runtime/noise/philox.py"
PIXELS, EXAMPLES, DATASET = "data/pixels.py", "data/examples.py", "data/dataset.py"

MUTATIONS = [
    Mutation(
        PHILOX,
        "[:] = block, 0, request, index",
        "[:] = block + request, 0, 0, index",
        "Successive requests overlap: the numbers of one are those of the next, shifted.",
    ),
    Mutation(
        PHILOX,
        "[:] = block, 0, request, index",
        "[:] = block, 0, 0, index",
        "Every request gives the same numbers.",
    ),
    Mutation(
        PHILOX,
        "[:] = block, 0, request, index",
        "[:] = block + index, 0, request, 0",
        "The streams of neighbouring examples overlap.",
    ),
    Mutation(
        PHILOX,
        "    bits = np.random.Philox(key=seed)\n",
        "    bits = np.random.Philox(key=0)\n",
        "The noise of examples does not depend on the seed.",
    ),
    Mutation(
        PHILOX,
        "counter[3] = columns, request, indices.to(device)[:, None]",
        "counter[3] = columns, request, 0",
        "In a large batch, all examples have the same noise.",
    ),
    Mutation(
        PHILOX,
        "(key + np.arange(_ROUNDS",
        "(key + 0 * np.arange(_ROUNDS",
        "All rounds of Philox have the same key.",
    ),
    Mutation(
        PHILOX,
        "xp.flip(lower, (0,))",
        "lower",
        "The rounds of Philox do not exchange words.",
    ),
    Mutation(
        PHILOX,
        "    upper += _shift(middle)\n",
        "",
        "A product of two words lacks a carry.",
    ),
    Mutation(
        PHILOX,
        "        if skipped:\n            bits.random_raw(skipped)\n",
        "",
        "A chunk that starts within a block of four words repeats some of them.",
    ),
    Mutation(
        PHILOX,
        "radius *= -2\n",
        "radius *= -1\n",
        "Normal draws have a variance of one half.",
    ),
    Mutation(
        PHILOX,
        "angle *= math.pi / (1 << 31)",
        "angle *= math.pi / (1 << 32)",
        "Angles cover half of the circle, so one of two normal draws is never negative.",
    ),
    Mutation(
        PHILOX,
        "    radius += 2.0**-33\n",
        "",
        "A word of zeros gives an infinite normal draw.",
    ),
    Mutation(
        PHILOX,
        "_DIGITS.get(dtype, 24)",
        "24",
        "Uniform draws in bfloat16 are rounded to 1.",
    ),
    Mutation(
        STREAMS,
        "        streams.turn = 0\n",
        "        pass\n",
        "Chunks do not continue the noise of the chunk before.",
    ),
    Mutation(
        STREAMS,
        "sequence = np.random.SeedSequence([seed, *map(_as_whole_number, purpose)])",
        "sequence = np.random.SeedSequence([seed])",
        "Seeds for different purposes are the same.",
    ),
    Mutation(
        STREAMS,
        "return len(sample_shape) + len(batch_shape) - 1",
        "return len(sample_shape)",
        "For a batch of pairs the noise belongs to samples instead of examples.",
    ),
    Mutation(
        PHILOX,
        "uniform *= 2.0**-digits",
        "uniform *= 0.5 * 2.0**-digits",
        "Uniform numbers lie between 0 and one half.",
    ),
    Mutation(
        FOREIGN,
        "return out.copy_(mean + std * drawn)",
        "return out.copy_(mean + drawn)",
        "Normal noise in place ignores its standard deviation.",
    ),
    Mutation(
        FOREIGN,
        "return out.copy_(low + (high - low) * drawn)",
        "return out.copy_(low + high * drawn)",
        "Uniform noise has the upper end as its width.",
    ),
    Mutation(
        FOREIGN,
        "(drawn / rate).clamp",
        "(drawn * rate).clamp",
        "Exponential noise has the rate as its mean.",
    ),
    Mutation(
        FOREIGN,
        "return out.copy_(median + sigma * drawn)",
        "return out.copy_(median + drawn)",
        "Cauchy noise ignores its scale.",
    ),
    Mutation(
        FOREIGN,
        "    return mean + std * drawn\n",
        "    return mean + std**2 * drawn\n",
        "Draws of torch's Gaussians have the variance as standard deviation.",
    ),
    Mutation(
        FOREIGN,
        "return (threshold < chances)",
        "return (threshold >= chances)",
        "Draws of torch's Bernoulli distribution are inverted.",
    ),
    Mutation(
        FOREIGN,
        "generator.binomial(count.astype(np.int64), chance, size)",
        "generator.binomial(count.astype(np.int64), 1 - chance, size)",
        "Draws of torch's binomial distribution are inverted.",
    ),
    Mutation(
        FOREIGN,
        "gradient * torch._standard_gamma_grad(*ctx.saved_tensors), None",
        "gradient, None",
        "Gamma draws have the gradient of a shift.",
    ),
    Mutation(
        FOREIGN,
        "torch.log1p(-u) / a)",
        "torch.log1p(-u) * a)",
        "Draws of a Dirichlet distribution have the wrong concentration.",
    ),
    Mutation(
        FOREIGN,
        "np.random.Generator.standard_gamma, a + 1)",
        "np.random.Generator.standard_gamma, a)",
        "The gamma draws of a Dirichlet distribution are one too few.",
    ),
    Mutation(
        FOREIGN,
        "turns, variables = count // samples, rows // examples",
        "turns, variables = count // samples, 1",
        "All categorical variables of an example have the same noise.",
    ),
    Mutation(
        FOREIGN,
        "shares = cumulative / cumulative[:, -1:]",
        "shares = cumulative",
        "Chances that do not sum to 1 are not normalised.",
    ),
    Mutation(
        FOREIGN,
        "{False: _multinomial, True: _multinomial_of_pairs}",
        "{False: _multinomial, True: _multinomial}",
        "Categories that depend on other latents have noise of other examples.",
    ),
    Mutation(
        PIXELS,
        "_draw_uniform(stored, dtype), below) / levels",
        "_draw_uniform(stored, dtype), below) / (levels - 1)",
        "Dequantised pixels exceed 1.",
    ),
    Mutation(
        PIXELS,
        "return torch.minimum(x + _draw_uniform(stored, dtype), below) / levels",
        "return (x + _draw_uniform(stored, dtype)) / levels",
        "Dequantised pixels are rounded into the next bin.",
    ),
    Mutation(
        PIXELS,
        "x = x / (levels - 1)",
        "x = x / levels",
        "White pixels are below 1.",
    ),
    Mutation(
        PIXELS,
        "(_draw_uniform(stored, dtype) < x)",
        "(_draw_uniform(stored, dtype) > x)",
        "Binarised pixels are inverted.",
    ),
    Mutation(
        EXAMPLES,
        'noise.derived_seed(seed, "binarize-once"), rows[index]',
        'noise.derived_seed(seed, "binarize-once"), index',
        "Pixels that are binarised once depend on the position of their example.",
    ),
    Mutation(
        EXAMPLES,
        'parts: dict[str, Any] = {"rows": self._get_row_numbers()[positions]}',
        'parts: dict[str, Any] = {"rows": torch.arange(len(positions))}',
        "Selected examples lose their row numbers, and with them their noise.",
    ),
    Mutation(
        EXAMPLES,
        'parts["labels"] = self.labels[positions]',
        'parts["labels"] = self.labels[: len(positions)]',
        "Selected examples get the labels of the first ones.",
    ),
    Mutation(
        EXAMPLES,
        "torch.linspace(0, last, min(count, len(self))).round()",
        "torch.arange(min(count, len(self)))",
        "Evenly spaced examples are the first ones.",
    ),
    Mutation(
        EXAMPLES,
        "rest, second = order[held_out:], order[:held_out]",
        "rest, second = order[held_out - 1 :], order[:held_out]",
        "One example is in both parts of a split.",
    ),
    Mutation(
        EXAMPLES,
        "return self.subset(rest.sort().values), self.subset(second.sort().values)",
        "return self.subset(second.sort().values), self.subset(rest.sort().values)",
        "The parts of a split are exchanged.",
    ),
    Mutation(
        EXAMPLES,
        "torch.Generator().manual_seed(seed))\n        rest",
        "torch.Generator().manual_seed(0))\n        rest",
        "A split does not depend on its seed.",
    ),
    Mutation(
        EXAMPLES,
        "bits = -bound / ((entries or math.prod(self.shape)) * math.log(2))",
        "bits = -bound / (entries or math.prod(self.shape))",
        "Bits per dimension are nats.",
    ),
    Mutation(
        EXAMPLES,
        "return bits + math.log2(self.levels)",
        "return bits - math.log2(self.levels)",
        "The scale of dequantised pixels has the wrong sign.",
    ),
    Mutation(
        EXAMPLES,
        '        if self.pixels == "dequantize":\n            return False\n',
        "",
        "Dequantised pixels count as discrete.",
    ),
    Mutation(
        DATASET,
        "test.prepare(pixels, seed=seed + 1)",
        "test.prepare(pixels, seed=seed)",
        "Training and test pixels are binarised by the same noise.",
    ),
    Mutation(
        DATASET,
        "whole.subset(torch.cat([train.rows, test.rows]).argsort())",
        "whole.subset(torch.cat([train.rows, test.rows]))",
        "Both parts of a split are joined in a wrong order.",
    ),
    Mutation(
        "training/batches.py",
        "own = {name: some[part] for name, some in fields.items()}",
        "own = {name: some[: size] for name, some in fields.items()}",
        "Batches that were read ahead get the fields of the first batch.",
    ),
    Mutation(
        "training/batches.py",
        "blocks[:, None] * block + torch.arange(block)).flatten()",
        "blocks[:, None] * block + torch.zeros(block).long()).flatten()",
        "An epoch of a file repeats the first example of each block.",
    ),
]
