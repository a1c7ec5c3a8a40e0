"""Whether a posterior needs double precision, because its draws are rounded at a boundary.

Shapes: S draws, J coordinates of the vector that represents the variables.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowerbound.evaluation.findings import Finding
from lowerbound.models import LogJoint
from lowerbound.runtime.memory import split_range

# A draw counts as rounded if its value represents a coordinate that is off by more than this. It
# is reported if so large a share of the draws is rounded.
_FAR, _SHARE = 0.1, 1e-3


def find_rounding(model: LogJoint, u_SJ: Tensor) -> Iterator[Finding]:
    """Find variables whose draws lie closer to the boundary of their support than numbers do.

    Between 0 and 1, for example, no number of float32 lies between 1 - 6e-8 and 1. So the log joint
    sees other values than q has drawn, and the result is not the bound.

    Args:
        model: in float32; in float64 nothing is reported.
        u_SJ: draws from q.
    """
    if model.centre.dtype == torch.float64:
        return
    rounded = dict.fromkeys(model.variables.parts, 0)
    for rows in split_range(*u_SJ.shape):
        for name, count in _count_rounded(model, u_SJ[rows]):
            rounded[name] += count
    for name, count in rounded.items():
        share = count / len(u_SJ)
        if share > _SHARE:
            yield Finding(
                f"{100 * share:.2g}% of the draws of {name} are rounded at the boundary of its "
                "support",
                "q is so close to the boundary that float32 has no such numbers",
                "compute in double precision: call model.double() before training, with the data "
                "of the log joint in float64",
            )


def _count_rounded(model: LogJoint, u_SJ: Tensor) -> Iterator[tuple[str, int]]:
    """Count the rounded draws of each variable."""
    values, _ = model.values(u_SJ.to(model.centre))
    drawn = (model.centre + model.spread * u_SJ.to(model.centre)).double()
    columns = drawn.split(model.variables.sizes, -1)
    for (name, part), real in zip(model.variables.parts.items(), columns, strict=True):
        value = values[name].double()
        back = part.transform.inv(value).reshape(real.shape)
        yield name, int((~((back - real).abs() <= _FAR)).any(-1).sum())
