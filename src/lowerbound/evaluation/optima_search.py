"""A search for the separate optima of a log joint, near 0 and far from q.

Shapes: J coordinates of the vector that represents the variables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import LowerboundError
from lowerbound.models.forgiving import ForgivingDensity
from lowerbound.models.optima import Optimum
from lowerbound.models.pathfinder import find_gaussians, keep_separate, make_start_points
from lowerbound.models.variable_posterior import VariablePosterior

# How far from q the far paths begin, in standard deviations of q.
_FAR_DEVIATIONS = 10.0

# The number of draws from which the bound of a Gaussian is estimated.
_BOUND_DRAWS = 20


def search_optima(
    model: VariablePosterior,
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    generator: np.random.Generator,
    *,
    paths: int = 10,
) -> tuple[Optimum, ...]:
    """Find separate optima, also far from q, and add those that the model has already.

    One half of the paths begins at points like those of :meth:`lowerbound.LogJoint.start`, the
    other half at points that are far from q. A path that fails is left out.

    Args:
        model: a log joint with a gradient, which has all data.
        mean: of q in unconstrained coordinates, ``[J]``.
        scale: the standard deviations of q there, ``[J]``.
        generator: of the points, and of the draws by which optima are compared.
        paths: the number of paths.

    Returns:
        The optima, the one with the largest bound first. There are none if all paths fail.
    """
    size, far = len(mean), paths // 2
    start_points = [
        *make_start_points(size, paths - far, generator),
        *(mean + _FAR_DEVIATIONS * scale * generator.standard_normal((far, size))),
    ]
    noise = generator.standard_normal((_BOUND_DRAWS, size))
    constant = float(model.spread.double().log().sum())
    found = [(optimum.bound + constant, optimum.gaussian) for optimum in model.optima]
    density = ForgivingDensity(model.plain_density)
    for start_point in start_points:
        try:
            found += find_gaussians(density, [start_point], noise)
        except (LowerboundError, ValueError, np.linalg.LinAlgError):
            continue
    return tuple(model.describe_optimum(*one) for one in keep_separate(found))
