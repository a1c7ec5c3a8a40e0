"""All mutations, by the area of the library in which they are."""

from __future__ import annotations

import table_ascent
import table_conditionals
import table_distributions
import table_evaluation
import table_fitted_priors
import table_health
import table_latents
import table_likelihoods
import table_models
import table_noise_and_data
import table_objectives
import table_penalties
import table_scores
import table_self_masked
import table_starts
import table_structured_models
import table_supports
import table_tables
import table_training
import table_verdicts
from mutation import Mutation

AREAS: dict[str, list[Mutation]] = {
    "distributions": table_distributions.MUTATIONS,
    "conditionals": table_conditionals.MUTATIONS,
    "likelihoods": table_likelihoods.MUTATIONS,
    "latents": table_latents.MUTATIONS,
    "supports": table_supports.MUTATIONS,
    "models": table_models.MUTATIONS,
    "structured models": table_structured_models.MUTATIONS,
    "objectives": table_objectives.MUTATIONS,
    "penalties": table_penalties.MUTATIONS,
    "coordinate ascent": table_ascent.MUTATIONS,
    "evaluation": table_evaluation.MUTATIONS,
    "health": table_health.MUTATIONS,
    "verdicts": table_verdicts.MUTATIONS,
    "scores": table_scores.MUTATIONS,
    "tables": table_tables.MUTATIONS,
    "self-masked tables": table_self_masked.MUTATIONS,
    "starts and networks": table_starts.MUTATIONS,
    "training": table_training.MUTATIONS,
    "fitted priors": table_fitted_priors.MUTATIONS,
    "noise and data": table_noise_and_data.MUTATIONS,
}

MUTATIONS = [mutation for table in AREAS.values() for mutation in table]
