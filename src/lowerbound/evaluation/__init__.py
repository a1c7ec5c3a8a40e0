"""Evaluations: how good a model is, in nats, with standard errors and warnings."""

from lowerbound.evaluation.annealed_estimate import AnnealedEstimate
from lowerbound.evaluation.annealing import Interval, annealed_log_likelihood, bidirectional
from lowerbound.evaluation.baseline import Gain, score_columns_alone, score_independent_entries
from lowerbound.evaluation.column_scores import ColumnScore, score_columns, tabulate_columns
from lowerbound.evaluation.comparison import Difference, paired_difference
from lowerbound.evaluation.disentangling import Disentanglement, disentanglement, score_codes
from lowerbound.evaluation.estimate import Estimate, evaluate
from lowerbound.evaluation.findings import Finding
from lowerbound.evaluation.gaps import Gaps, inference_gaps
from lowerbound.evaluation.group_health import CodeUse, GroupHealth
from lowerbound.evaluation.health import LatentHealth, latent_health
from lowerbound.evaluation.importance import LikelihoodEstimate, log_likelihood
from lowerbound.evaluation.imputing import Imputation, impute
from lowerbound.evaluation.inference_data import to_arviz
from lowerbound.evaluation.intervals import mean_interval
from lowerbound.evaluation.pooling import PooledEstimate, pool
from lowerbound.evaluation.posterior import PosteriorHealth, posterior_health
from lowerbound.evaluation.refining import RefinedPosterior, refine
from lowerbound.evaluation.row_scores import RowScores, score
from lowerbound.evaluation.sensitivity import Sensitivity, sensitivity, tabulate_sensitivity

__all__ = [
    "AnnealedEstimate",
    "CodeUse",
    "ColumnScore",
    "Difference",
    "Disentanglement",
    "Estimate",
    "Finding",
    "Gain",
    "Gaps",
    "GroupHealth",
    "Imputation",
    "Interval",
    "LatentHealth",
    "LikelihoodEstimate",
    "PooledEstimate",
    "PosteriorHealth",
    "RefinedPosterior",
    "RowScores",
    "Sensitivity",
    "annealed_log_likelihood",
    "bidirectional",
    "disentanglement",
    "evaluate",
    "impute",
    "inference_gaps",
    "latent_health",
    "log_likelihood",
    "mean_interval",
    "paired_difference",
    "pool",
    "posterior_health",
    "refine",
    "score",
    "score_codes",
    "score_columns",
    "score_columns_alone",
    "score_independent_entries",
    "sensitivity",
    "tabulate_columns",
    "tabulate_sensitivity",
    "to_arviz",
]
