"""Mutations of the evaluation of models: likelihoods, annealing, gaps, intervals, comparisons."""

from __future__ import annotations

from mutation import Mutation

IMPORTANCE, PARETO = "evaluation/importance.py", "evaluation/pareto.py"
ESTIMATE, INTERVALS = "evaluation/estimate.py", "evaluation/intervals.py"
COMPARISON, CHAINS = "evaluation/comparison.py", "evaluation/chains.py"
ANNEALING, ANNEALED = "evaluation/annealing.py", "evaluation/annealed_estimate.py"
GAPS, SEARCH = "evaluation/gaps.py", "evaluation/search.py"

MUTATIONS = [
    Mutation(
        ESTIMATE,
        "float(self.per_example.std()) / math.sqrt(count)",
        "float(self.per_example.std()) / count",
        "The standard error falls with N instead of its root.",
    ),
    Mutation(
        ESTIMATE,
        "DOUBTFUL_SHARE = 0.05",
        "DOUBTFUL_SHARE = 0.5",
        "An estimate with many doubtful examples is not doubtful.",
    ),
    Mutation(
        ESTIMATE,
        "self.doubtful_share >= DOUBTFUL_SHARE or self.shortfall > LARGEST_SHORTFALL",
        "self.doubtful_share >= DOUBTFUL_SHARE",
        "An estimate that may be far too low is not doubtful.",
    ),
    Mutation(
        INTERVALS,
        "stdtrit(len(x) - 1, (1",
        "stdtrit(len(x), (1",
        "Student's interval has one degree of freedom too many.",
    ),
    Mutation(
        INTERVALS,
        "return mean - high * error, mean - low * error",
        "return mean + low * error, mean + high * error",
        "The studentised interval is on the wrong side of a skewed mean.",
    ),
    Mutation(
        INTERVALS,
        "np.maximum(drawn.std(1, ddof=1), least) / math.sqrt(len(x))",
        "np.maximum(drawn.std(1, ddof=1), least)",
        "The resampled means are not divided by their standard errors.",
    ),
    Mutation(
        INTERVALS,
        "min(low, float(ends[0])), max(high, float(ends[1]))",
        "float(ends[0]), float(ends[1])",
        "The interval is the bootstrap's alone.",
    ),
    Mutation(
        INTERVALS,
        'derived_seed(seed, "bootstrap")',
        'derived_seed(0, "bootstrap")',
        "The seed of the resampling is ignored.",
    ),
    Mutation(
        IMPORTANCE,
        "self.top + self.total.log() - math.log(self.samples)",
        "self.top + self.total.log() - math.log(max(1, self.samples - 1))",
        "The log likelihood divides by one sample too few.",
    ),
    Mutation(
        IMPORTANCE,
        "self.total.square() / self.squares",
        "self.total / self.squares",
        "The effective sample size does not square the sum of the weights.",
    ),
    Mutation(
        IMPORTANCE,
        "self.squares = self.squares * rescale.square() + weights.square().sum(0)",
        "self.squares = self.squares * rescale + weights.square().sum(0)",
        "The squares of earlier chunks are rescaled like the weights.",
    ),
    Mutation(
        IMPORTANCE,
        "self.keep = min(samples, tail_length(samples) + 1)",
        "self.keep = min(samples, tail_length(samples))",
        "The tail of the weights lacks its smallest one.",
    ),
    Mutation(
        IMPORTANCE,
        "_FEWEST_EFFECTIVE = 10.0",
        "_FEWEST_EFFECTIVE = 1.0",
        "An estimate by a single effective sample is not doubtful.",
    ),
    Mutation(
        IMPORTANCE,
        "_EVEN_SHARE = 0.9",
        "_EVEN_SHARE = 0.1",
        "Uneven weights count as even, so their tail does not matter.",
    ),
    Mutation(
        IMPORTANCE,
        "even &= ~(self.pareto_k > 1)",
        "even &= ~(self.pareto_k > 2)",
        "Even weights whose tail has no mean are trusted.",
    ),
    Mutation(
        IMPORTANCE,
        "        next_chunk()\n",
        "",
        "Each chunk has noise that depends on the size of the chunks.",
    ),
    Mutation(
        PARETO,
        "_PRIOR_COUNT = 10.0",
        "_PRIOR_COUNT = 5.0",
        "The prior of k-hat is worth half as many observations.",
    ),
    Mutation(
        PARETO,
        "int(count / 4 + 0.5) - 1",
        "int(count / 2 + 0.5) - 1",
        "k-hat takes the median for the quartile.",
    ),
    Mutation(
        PARETO,
        "excess = weights[1:] - weights[0]  #",
        "excess = weights[1:] - 0.9 * weights[0]  #",
        "k-hat measures the tail from another cut-off.",
    ),
    Mutation(
        PARETO,
        "grid = 30 + int(math.sqrt(count))",
        "grid = 20 + int(math.sqrt(count))",
        "k-hat has a coarser grid.",
    ),
    Mutation(
        PARETO,
        "/ (3 * quartile)",
        "/ (2 * quartile)",
        "The prior of k-hat's grid has another scale.",
    ),
    Mutation(
        PARETO,
        "(count * fitted + 0.5 * _PRIOR_COUNT)",
        "(count * fitted + 0.7 * _PRIOR_COUNT)",
        "The prior of k-hat pulls to another value.",
    ),
    Mutation(
        PARETO,
        "math.ceil(min(samples / 5, 3 * math.sqrt(samples)))",
        "math.ceil(max(samples / 5, 3 * math.sqrt(samples)))",
        "The tail has too many weights.",
    ),
    Mutation(
        PARETO,
        "min(1 - 1 / math.log10(samples), 0.7)",
        "min(1 - 1 / math.log(samples), 0.7)",
        "The reliable shape has the natural logarithm.",
    ),
    Mutation(
        COMPARISON,
        "return self.low > 0 or self.high < 0",
        "return self.high > 0 or self.low < 0",
        "Every interval excludes 0.",
    ),
    Mutation(
        COMPARISON,
        "distance = max(self.low, -self.high)",
        "distance = max(self.high, -self.low)",
        "A shortfall is compared with the far end of the interval.",
    ),
    Mutation(
        COMPARISON,
        "better, low, high = second, -self.high, -self.low",
        "better, low, high = second, -self.low, -self.high",
        "The sentence exchanges the ends of an interval below 0.",
    ),
    Mutation(
        COMPARISON,
        "(a.doubtful_share, b.doubtful_share)",
        "(a.doubtful_share, a.doubtful_share)",
        "The doubt of the second estimate is ignored.",
    ),
    Mutation(
        COMPARISON,
        "(a.shortfall, b.shortfall)",
        "(a.shortfall, a.shortfall)",
        "The shortfall of the second estimate is ignored.",
    ),
    Mutation(
        ANNEALED,
        "_FARTHEST_HALVES = 2.0",
        "_FARTHEST_HALVES = 20.0",
        "Halves of the chains may disagree by 20 nats.",
    ),
    Mutation(
        ANNEALED,
        "max(_LEAST_EFFECTIVE, chains / 4)",
        "max(_LEAST_EFFECTIVE, chains / 40)",
        "An annealed estimate by one chain of 16 is not doubtful.",
    ),
    Mutation(
        ANNEALED,
        "Estimate(self.per_example - self.shorter)",
        "Estimate(self.shorter - self.per_example)",
        "The growth of an annealed estimate has the wrong sign.",
    ),
    Mutation(
        ANNEALED,
        "max(0.0, mean_interval(growth)[1])",
        "max(0.0, mean_interval(growth)[0])",
        "The shortfall is the lower end of the growth's interval.",
    ),
    Mutation(
        CHAINS,
        "self.make_state(proposal.z + step * momentum)",
        "self.make_state(proposal.z + 0.5 * step * momentum)",
        "Trajectories move half of a step.",
    ),
    Mutation(
        CHAINS,
        "chance = (gain - kinetic_gain).exp()",
        "chance = gain.exp()",
        "The acceptance ignores the kinetic energy.",
    ),
    Mutation(
        CHAINS,
        "accepted = uniform < chance",
        "accepted = uniform < 2",
        "All proposals are accepted.",
    ),
    Mutation(
        CHAINS,
        "log_step + _RATE * (chance.mean(0) - _ACCEPTANCE)",
        "log_step - _RATE * (chance.mean(0) - _ACCEPTANCE)",
        "Step sizes adapt away from the acceptance that is aimed at.",
    ),
    Mutation(
        CHAINS,
        "(self.betas[t + direction] - self.betas[t]) * state.log_likelihood",
        "(self.betas[t + direction] - self.betas[t - direction]) / 2 * state.log_likelihood",
        "Annealed weights have a central difference of the temperatures.",
    ),
    Mutation(
        CHAINS,
        "effective = (2 * total - (2 * log_w).logsumexp(0)).exp()",
        "effective = (2 * total - 2 * log_w.logsumexp(0)).exp()",
        "The effective sample size of chains is always 1.",
    ),
    Mutation(
        CHAINS,
        "_log_mean(log_w[middle:])",
        "_log_mean(log_w[:middle])",
        "The two halves of the chains are the same half.",
    ),
    Mutation(
        CHAINS,
        '"log_likelihood": direction * (total - math.log(len(log_w)))',
        '"log_likelihood": direction * total - math.log(len(log_w))',
        "Reverse annealing subtracts the number of chains on the wrong side.",
    ),
    Mutation(
        CHAINS,
        "align_corners=True",
        "align_corners=False",
        "Interpolated step sizes are shifted along the temperatures.",
    ),
    Mutation(
        CHAINS,
        "((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0]))",
        "(sigmoid / sigmoid[-1])",
        "The temperatures do not begin at 0.",
    ),
    Mutation(
        CHAINS,
        'derived_seed(self.settings["seed"], "pilot")',
        'self.settings["seed"]',
        "The pilot run has the noise of the run whose step sizes it chooses.",
    ),
    Mutation(
        ANNEALING,
        'derived_seed(seed, "shorter")',
        "seed",
        "The chains of half the length have the noise of the pilot run or of the whole one.",
    ),
    Mutation(
        ANNEALING,
        "upper = path.anneal(z.expand(chains, *z.shape[1:]), steps, down=True)",
        "upper = path.anneal(draw_from_prior(path.prior, chains, len(x)), steps, down=True)",
        "Reverse annealing starts at draws from the prior.",
    ),
    Mutation(
        GAPS,
        "Estimate(self.log_likelihood.per_example - self.best_bound.per_example)",
        "Estimate(self.log_likelihood.per_example - self.amortised_bound.per_example)",
        "The approximation gap is the whole inference gap.",
    ),
    Mutation(
        GAPS,
        "math.hypot(train.standard_error, others.standard_error)",
        "train.standard_error",
        "The error of the generalisation gap is that of one side.",
    ),
    Mutation(
        SEARCH,
        "worse = (ended <= started) | ~torch.isfinite(ended)",
        "worse = ~torch.isfinite(ended)",
        "A round that made q worse is kept.",
    ),
    Mutation(
        SEARCH,
        "q_stopgrad = self._posterior.from_parameters(raw.detach())",
        "q_stopgrad = self._posterior.from_parameters(raw)",
        "The search for the best q has a noisy gradient at its optimum.",
    ),
    Mutation(
        SEARCH,
        "decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))",
        "decay = 0.5 * (1 - math.cos(math.pi * step / self.steps))",
        "The learning rate of the search rises instead of falling.",
    ),
    Mutation(
        SEARCH,
        "weights.add(log_joint - log_q.logsumexp(0) + math.log(2))",
        "weights.add(log_joint - log_q.logsumexp(0))",
        "The mixture of two proposals is not divided by two.",
    ),
    Mutation(
        SEARCH,
        'self._using_noise(batch.rows, "weigh", own, start)',
        'self._using_noise(batch.rows, "weigh", start)',
        "Both proposals have the same noise, so equal draws count twice.",
    ),
    Mutation(
        SEARCH,
        "return bounds / self.samples",
        "return bounds / (self.samples + 1)",
        "The bounds of the gaps divide by one draw too many.",
    ),
]
