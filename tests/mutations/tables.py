"""All mutations, by the area of the library in which they are."""

from __future__ import annotations

import table_ascent
import table_conditionals
import table_distributions
import table_evaluation
import table_health
import table_models
import table_noise_and_data
import table_objectives
import table_training
import table_verdicts
from mutation import Mutation

AREAS: dict[str, list[Mutation]] = {
    "distributions": table_distributions.MUTATIONS,
    "conditionals": table_conditionals.MUTATIONS,
    "models": table_models.MUTATIONS,
    "objectives": table_objectives.MUTATIONS,
    "coordinate ascent": table_ascent.MUTATIONS,
    "evaluation": table_evaluation.MUTATIONS,
    "health": table_health.MUTATIONS,
    "verdicts": table_verdicts.MUTATIONS,
    "training": table_training.MUTATIONS,
    "noise and data": table_noise_and_data.MUTATIONS,
}

MUTATIONS = [mutation for table in AREAS.values() for mutation in table]
