"""How good a model is, in nats, and how sure that figure is."""

from lowerbound.evaluation.estimate import Estimate, evaluate
from lowerbound.evaluation.importance import LikelihoodEstimate, log_likelihood

__all__ = ["Estimate", "LikelihoodEstimate", "evaluate", "log_likelihood"]
