"""Tell the user that an estimate is not to be trusted."""

from __future__ import annotations

import warnings

from lowerbound.errors import DoubtfulEstimateWarning
from lowerbound.evaluation.estimate import Estimate


def warn_if_doubtful(estimate: Estimate) -> None:
    """Issue the warning of an estimate, at the caller of the function that calls this one."""
    if estimate.is_doubtful:
        warnings.warn(str(estimate.warning), DoubtfulEstimateWarning, stacklevel=3)
