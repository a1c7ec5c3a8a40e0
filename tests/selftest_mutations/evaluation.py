"""Mutations of log likelihoods, the diagnostics of weights, information and annealing."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from lowerbound.evaluation import aggregate, chains, estimate, importance, pareto
from lowerbound.models import LatentModel
from lowerbound.runtime import noise

from . import breaks

# Evaluation


def change_results(patch, change):
    original = importance.WeightSums.results
    patch.setattr(importance.WeightSums, "results", lambda self: change(self, original(self)))


@breaks(
    "log-likelihood-value",
    "log-likelihood-exact",
    "log-likelihood-written-out",
    "quadrature",
    "binary-likelihood",
)
def log_likelihood_is_negated(patch):
    change_results(patch, lambda self, known: known | {"log_likelihood": -known["log_likelihood"]})


@breaks(
    "log-likelihood-value",
    "log-likelihood-exact",
    "log-likelihood-written-out",
    "quadrature",
    "binary-likelihood",
)
def log_likelihood_lacks_log_k(patch):
    change_results(
        patch,
        lambda self, known: (
            known | {"log_likelihood": known["log_likelihood"] + math.log(self.samples)}
        ),
    )


@breaks("log-likelihood-written-out")
def the_effective_sample_size_is_not_squared(patch):
    change_results(patch, lambda self, known: known | {"effective": self.total / self.squares})


@breaks("sample-count", "log-likelihood-exact")
def one_sample_more_is_drawn_than_divided_by(patch):
    original = LatentModel._draw_from
    patch.setattr(
        LatentModel,
        "_draw_from",
        lambda self, parts, x, samples, *args, **more: original(
            self, parts, x, samples + 1, *args, **more
        ),
    )


@breaks("log-likelihood-exact", "chunks-and-batches")
def a_short_last_chunk_is_counted_twice(patch):
    original = importance.WeightSums.add

    def add(self, log_w):
        original(self, log_w)
        if len(log_w) < vars(self).setdefault("usual", len(log_w)):
            original(self, log_w)

    patch.setattr(importance.WeightSums, "add", add)


@breaks("chunks-and-batches")
def every_chunk_draws_anew(patch):
    @contextmanager
    def in_chunks():
        yield lambda: None

    patch.setattr(noise, "in_chunks", in_chunks)


@breaks(
    "examples-noise-is-their-own",
    "chunks-and-batches",
    "mean-over-examples",
    "log-likelihood-written-out",
)
def noise_does_not_belong_to_examples(patch):
    @contextmanager
    def per_example(seed, indices):
        yield

    patch.setattr(noise, "per_example", per_example)


@breaks("mean-over-examples")
def evaluate_averages_the_means_of_batches(patch):
    original = estimate.compute_dataset_terms

    def averaged(*args, batch_size=None, **kwargs):
        terms = original(*args, batch_size=batch_size, **kwargs)
        return {
            name: torch.stack([part.mean() for part in term.split(batch_size or 10)])
            for name, term in terms.items()
        }

    patch.setattr(estimate, "compute_dataset_terms", averaged)


@breaks("pareto-shape")
def the_prior_of_pareto_s_shape_weighs_too_much(patch):
    patch.setattr(pareto, "_PRIOR_COUNT", 500.0)


@breaks("doubtful-weights")
def all_weights_are_trusted(patch):
    patch.setattr(
        importance.LikelihoodEstimate,
        "doubtful",
        property(lambda self: self.per_example > math.inf),
    )


@breaks("mutual-information")
def mutual_information_is_capped_by_a_batch(patch):
    patch.setattr(aggregate, "_MOST_COMPONENTS", 1024)


# Annealing


@breaks("annealing-evidence", "annealing-quadrature")
def the_temperatures_end_too_soon(patch):
    original = chains._choose_betas
    patch.setattr(chains, "_choose_betas", lambda count: [0.9 * beta for beta in original(count)])


@breaks("annealing-evidence")
def proposals_are_accepted_with_the_wrong_sign(patch):
    patch.setattr(
        chains.ChainState,
        "log_density",
        lambda self, beta: -self.log_prior - beta * self.log_likelihood,
    )


@breaks("annealing-evidence")
def no_proposal_is_ever_rejected(patch):
    patch.setattr(
        chains,
        "noise",
        SimpleNamespace(**vars(noise) | {"uniform": lambda *args, **kwargs: torch.tensor(-1.0)}),
    )


@breaks("annealing-gap")
def annealed_weights_lack_log_c(patch):
    original = chains.AnnealingPath.anneal

    def anneal(self, z, steps, *, down=False):
        known = original(self, z, steps, down=down)
        return known | {
            "log_likelihood": known["log_likelihood"] + (-1 if down else 1) * math.log(len(z))
        }

    patch.setattr(chains.AnnealingPath, "anneal", anneal)


@breaks("annealing-at-length")
def chains_never_move(patch):
    patch.setattr(
        chains.AnnealingPath,
        "transition",
        lambda self, state, beta, step: (state, torch.ones_like(state.log_prior)),
    )
