"""Mutations of densities, divergences, draws and the streams of noise."""

from contextlib import contextmanager
from dataclasses import replace

import torch
import zuko

from lowerbound.conditionals import Gaussian, LowRankGaussian
from lowerbound.conditionals.structured import ByVariable
from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    Mixture,
    TriangularNormal,
    divergence,
    normal,
)
from lowerbound.models import LatentModel
from lowerbound.runtime import noise
from lowerbound.runtime.noise import foreign, philox, streams

from . import breaks


def negate(function):
    return lambda *args, **kwargs: -function(*args, **kwargs)


# Densities and divergences


@breaks(
    "gaussian-kl",
    "gaussian-kl-sampled",
    "elbo-written-out",
    "elbo-below-by-the-divergence",
    "estimators-agree",
)
def the_gaussian_kl_has_the_wrong_sign(patch):
    patch.setattr(divergence, "_normal_unit_kl", negate(divergence._normal_unit_kl))


@breaks("gaussian-kl", "gaussian-kl-sampled", "elbo-written-out", "estimators-agree")
def the_gaussian_kl_swaps_its_arguments(patch):
    original = divergence._normal_unit_kl
    patch.setattr(divergence, "_normal_unit_kl", lambda q, p: original(p, q))


@breaks("bernoulli-kl", "bernoulli-kl-sampled", "binary-elbo-gradient")
def the_bernoulli_kl_has_the_wrong_sign(patch):
    patch.setattr(divergence, "_bernoulli_unit_kl", negate(divergence._bernoulli_unit_kl))


@breaks(
    "gaussian-reads-mean-then-variance", "exact-posterior", "elbo-written-out", "probabilistic-pca"
)
def mean_and_log_variance_are_swapped(patch):
    original = Gaussian.from_parameters

    def swapped(self, raw):
        if self.scale != "network":
            return original(self, raw)
        first, second = raw.chunk(2, -self.event_dims)
        return original(self, torch.cat([second, first], -self.event_dims))

    patch.setattr(Gaussian, "from_parameters", swapped)


@breaks(
    "gaussian-reads-mean-then-variance", "exact-posterior", "probabilistic-pca", "factor-analysis"
)
def the_log_variance_is_used_as_the_log_scale(patch):
    original = Gaussian._bound_log_scale
    patch.setattr(
        Gaussian, "_bound_log_scale", lambda self, log_variance: 2 * original(self, log_variance)
    )


@breaks(
    "gaussian-integrates-to-one",
    "gaussian-reads-mean-then-variance",
    "exact-posterior",
    "factor-analysis",
)
def the_gaussian_density_lacks_its_constant(patch):
    patch.setattr(normal, "_HALF_LOG_TWO_PI", 0.0)


@breaks("bernoulli-sums-to-one", "bernoulli-kl-sampled")
def the_bernoulli_density_lacks_its_normaliser(patch):
    patch.setattr(
        FactorialBernoulli,
        "log_prob",
        lambda self, x: (x * self.logits).flatten(-self.event_dims).sum(-1),
    )


@breaks("rank-ten", "elbo-written-out", "probabilistic-pca")
def the_reconstruction_is_averaged_over_dimensions(patch):
    original = DiagonalNormal.log_prob

    def averaged(self, value):
        return original(self, value) / self.event_shape.numel()

    patch.setattr(DiagonalNormal, "log_prob", averaged)


@breaks("exact-posterior", "elbo-written-out", "log-likelihood-exact")
def the_prior_scores_another_sample_than_the_decoder_gets(patch):
    original = LatentModel._draw_from

    def drawn(self, *args, **more):
        honest = original(self, *args, **more)
        return replace(honest, prior_term=lambda: honest.prior.log_prob(honest.z.roll(1, 0)) + 0.01)

    patch.setattr(LatentModel, "_draw_from", drawn)


# Correlations, mixtures and flows


@breaks("correlated-density", "correlated-draws")
def the_low_rank_gaussian_uses_scales_as_variances(patch):
    original = LowRankGaussian.from_parameters

    def from_parameters(self, raw):
        size = raw.shape[-1] // (2 + self.rank)
        loc, log_variance, columns = raw.split((size, size, size * self.rank), -1)
        return original(self, torch.cat([loc, 0.5 * log_variance, columns], -1))

    patch.setattr(LowRankGaussian, "from_parameters", from_parameters)


@breaks("correlated-draws", "groups-of-variables")
def variables_are_not_put_back_in_their_order(patch):
    original = ByVariable.over

    def over(self, variables):
        parts = original(self, variables)
        parts.positions.copy_(parts.positions.argsort())
        return parts

    patch.setattr(ByVariable, "over", over)


@breaks("correlated-draws")
def full_rank_draws_have_the_triangle_transposed(patch):
    original = TriangularNormal.rsample

    def rsample(self, sample_shape=()):
        return original(TriangularNormal(self.loc, self.factor.mT), sample_shape)

    patch.setattr(TriangularNormal, "rsample", rsample)


@breaks("correlated-density", "log-joint-evidence")
def the_determinant_of_full_rank_is_squared(patch):
    original = TriangularNormal._log_volume
    patch.setattr(TriangularNormal, "_log_volume", lambda self: 2 * original(self))


@breaks("mixture-density")
def a_mixture_is_a_sum(patch):
    patch.setattr(
        Mixture,
        "log_prob",
        lambda self, value: self.components.log_prob(value.unsqueeze(-2)).logsumexp(-1),
    )


@breaks("mixture-density")
def a_mixture_varies_only_within_components(patch):
    patch.setattr(
        Mixture, "variance", property(lambda self: self._average(self.components.variance))
    )


@breaks("mixture-draws")
def a_mixture_draws_from_its_first_component_too_often(patch):
    original = Mixture._choose_components
    patch.setattr(
        Mixture, "_choose_components", lambda self, size: (original(self, size) - 1).clamp_min(0)
    )


@breaks("flow-integrates-to-one", "flow-density-of-its-draws", "parts-of-the-score")
def the_flow_s_density_lacks_its_determinant(patch):
    patch.setattr(
        zuko.distributions.NormalizingFlow,
        "log_prob",
        lambda self, x: self.base.log_prob(self.transform(x)),
    )


# Noise


@breaks("noise-never-repeats")
def successive_requests_overlap(patch):
    original = philox.draw_words
    patch.setattr(
        philox,
        "draw_words",
        lambda *args, request, start, **more: original(
            *args, request=0, start=start + request, **more
        ),
    )


@breaks("noise-never-repeats")
def streams_ignore_the_seed(patch):
    original = streams.ExampleStreams.__init__
    patch.setattr(
        streams.ExampleStreams, "__init__", lambda self, seed, rows: original(self, 0, rows)
    )


@breaks("noise-in-chunks", "log-likelihood-written-out")
def every_chunk_begins_the_stream_again(patch):
    @contextmanager
    def in_chunks():
        state = streams._PER_EXAMPLE.get()

        def next_chunk():
            state.requests = 0

        yield next_chunk

    patch.setattr(noise, "in_chunks", in_chunks)


@breaks("derived-seeds")
def all_purposes_share_a_seed(patch):
    patch.setattr(streams, "_as_whole_number", lambda purpose: 0)


def change_answer(patch, function, change):
    original = foreign._ANSWERS[function]
    patch.setitem(foreign._ANSWERS, function, lambda *args, **more: change(original(*args, **more)))


@breaks("noise-of-discrete-draws")
def torch_s_bernoulli_draws_are_inverted(patch):
    change_answer(patch, torch.bernoulli, lambda drawn: 1 - drawn)


@breaks("noise-of-discrete-draws")
def the_first_category_is_drawn_too_often(patch):
    original = foreign._find_categories
    patch.setattr(
        foreign,
        "_find_categories",
        lambda chances, thresholds: original(chances, 0.95 * thresholds),
    )


@breaks("noise-distributions")
def gamma_draws_are_too_large(patch):
    change_answer(patch, torch._standard_gamma, lambda drawn: 1.1 * drawn)


@breaks("noise-distributions", "correlated-draws")
def normal_draws_are_too_narrow(patch):
    original = noise.standard_normal

    def standard_normal(*args, **more):
        return 0.9 * original(*args, **more)

    patch.setattr(noise, "standard_normal", standard_normal)


@breaks("uniform-noise")
def uniform_draws_lack_their_last_bits(patch):
    original = noise.uniform
    patch.setattr(
        noise,
        "uniform",
        lambda *args, **more: (original(*args, **more) * 2.0**20).floor() / 2.0**20,
    )
