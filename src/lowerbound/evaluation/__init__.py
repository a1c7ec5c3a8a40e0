"""How good a model is, in nats, and how sure that figure is."""

from lowerbound.evaluation.estimate import Estimate, evaluate

__all__ = ["Estimate", "evaluate"]
