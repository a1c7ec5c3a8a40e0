"""Mutations of supports, in comparisons and in files, and of the tails of flows."""

from __future__ import annotations

from mutation import Mutation

COMPARED, STORED = "distributions/supports.py", "conditionals/supports.py"
TAILS = "conditionals/linear_tails.py"

MUTATIONS = [
    Mutation(
        COMPARED,
        "(self.interval or others.joint is not None)",
        "self.interval",
        "Binary draws have a probability under a prior of one-hot vectors.",
    ),
    Mutation(
        COMPARED,
        "self.joint != others.joint and (self.interval or others.joint is not None)",
        "self.joint != others.joint",
        "One-hot draws have no probability under a prior of binary values.",
    ),
    Mutation(
        COMPARED,
        "not (others.points and self.points.lies_within(others.points))",
        "(others.points and not self.points.lies_within(others.points))",
        "A value with a probability has a density under a prior without point masses.",
    ),
    Mutation(
        COMPARED,
        "_is_at_least(self.interval[0], others.interval[0])",
        "_is_at_least(others.interval[0], self.interval[0])",
        "Real draws have a density under a prior of positive numbers.",
    ),
    Mutation(
        COMPARED,
        "_is_at_least(others.interval[1], self.interval[1])",
        "True",
        "Draws above the largest value of the prior have a density.",
    ),
    Mutation(
        COMPARED,
        "other.per_unit % self.per_unit == 0",
        "self.per_unit % other.per_unit == 0",
        "Quarters lie among halves, and halves not among quarters.",
    ),
    Mutation(
        COMPARED,
        "and _is_at_least(self.lower, other.lower)",
        "",
        "Draws below the smallest value of a prior over whole numbers have a probability.",
    ),
    Mutation(
        COMPARED,
        "_is_at_least(other.upper, self.upper)",
        "_is_at_least(self.upper, other.upper)",
        "Counts without a limit have a probability under a prior of few counts.",
    ),
    Mutation(
        COMPARED,
        "((larger >= smaller) | torch.isclose(larger, smaller, rtol=_ROUNDING))",
        "(larger >= smaller)",
        "Bounds in tensors that differ by rounding are different bounds.",
    ),
    Mutation(
        COMPARED,
        "rtol=_ROUNDING)).all())",
        "rtol=_ROUNDING)).any())",
        "It is enough that one entry lies within the prior's bounds.",
    ),
    Mutation(
        COMPARED,
        " or math.isclose(larger, smaller, rel_tol=_ROUNDING)",
        "",
        "Bounds that differ by rounding are different bounds.",
    ),
    Mutation(
        COMPARED,
        "points=Grid(*bounds)",
        "interval=bounds",
        "Whole numbers have a density.",
    ),
    Mutation(
        COMPARED,
        'getattr(support, "lower_bound", -math.inf)',
        'getattr(support, "lower_bound", 0.0)',
        "Values below a bound are positive.",
    ),
    Mutation(
        COMPARED,
        "not (is_joint or is_wide)",
        "not is_wide",
        "Supports of unknown classes that restrict several entries are compatible.",
    ),
    Mutation(
        COMPARED,
        "not (is_joint or is_wide)",
        "not is_joint",
        "Real draws have a density under a prior over unknown values.",
    ),
    Mutation(
        COMPARED,
        "inner is constraints.real or inner.is_discrete is None",
        "inner is constraints.real",
        "A mixture of a mass and a density has a density under unknown values.",
    ),
    Mutation(
        COMPARED,
        "support is None or support.is_discrete is None",
        "support is None",
        "A hurdle over a density is a density.",
    ),
    Mutation(
        COMPARED,
        "support.is_discrete is not False",
        "bool(support.is_discrete)",
        "A hurdle over a density has no point masses.",
    ),
    Mutation(
        COMPARED,
        "find_entry_support(base) is not unwrap_support(transform.codomain)",
        "False",
        "A flow whose base covers a part of its codomain is over its whole domain.",
    ),
    Mutation(
        COMPARED,
        "Values(points=Grid(0, 1), joint=constraints.one_hot)",
        "Values(points=Grid(0, 1))",
        "One-hot vectors are any binary values.",
    ),
    Mutation(
        COMPARED,
        "Values(interval=(0, 1), joint=constraints.simplex)",
        "Values(interval=(0, 1))",
        "Vectors that sum to 1 have a density among all numbers from 0 to 1.",
    ),
    Mutation(
        COMPARED,
        "value.flatten(value.dim() - self._event_dims).isfinite().all(-1)",
        "value.isfinite()",
        "Codes are checked entry by entry.",
    ),
    Mutation(
        STORED,
        '{"kind": name} | arguments',
        '{"kind": name}',
        "A file forgets the bounds of a support.",
    ),
    Mutation(
        STORED,
        "if _INSTANCES.get(name) is support",
        "if type(_INSTANCES.get(name)) is type(support)",
        "Whole numbers from 1 come back as whole numbers from 0.",
    ),
    Mutation(
        STORED,
        "[_describe_argument(entry) for entry in value]",
        "list(value)",
        "Supports of pieces are not described.",
    ),
    Mutation(
        STORED,
        'str(value.dtype).removeprefix("torch.")',
        '"float32"',
        "Bounds in float64 come back in float32.",
    ),
    Mutation(
        STORED,
        "        return torch.tensor(value)\n",
        "        return value\n",
        "Bounds in files of an earlier version stay lists.",
    ),
    Mutation(
        STORED,
        "isinstance(value, float)",
        "isinstance(value, int | float)",
        "Lengths of pieces in a file become tensors.",
    ),
    Mutation(
        STORED,
        "[_build_argument(entry) for entry in value]",
        "value",
        "Supports of pieces come back as their names.",
    ),
    Mutation(
        STORED,
        "except (KeyError, TypeError, ValueError, AttributeError)",
        "except (KeyError, TypeError)",
        "Some damaged files end in an error of Python.",
    ),
    Mutation(
        STORED,
        'if name not in ("kind", "foreign")',
        'if name != "foreign"',
        "A support is named twice in a message.",
    ),
    Mutation(
        TAILS,
        "(x - within) * ladj.exp()",
        "(x - within)",
        "The tails of flows have the slope 1, and the densities of another slope.",
    ),
    Mutation(
        TAILS,
        "(y - lowest) * (-lower_ladj).exp()",
        "(y - lowest) * lower_ladj.exp()",
        "The inverse of a lower tail has the slope of the tail.",
    ),
    Mutation(
        TAILS,
        "(y - highest) * (-upper_ladj).exp()",
        "(y - highest) * (-lower_ladj).exp()",
        "The inverse of an upper tail has the slope of the lower one.",
    ),
    Mutation(
        TAILS,
        "x = torch.where(y < lowest, lower + (y - lowest) * (-lower_ladj).exp(), x)\n",
        "pass\n",
        "Draws in the lower tail stop at -10.",
    ),
    Mutation(
        TAILS,
        "isinstance(transform, of_zuko.SoftclipTransform)",
        "False",
        "A flow of two transforms covers an interval only.",
    ),
    Mutation(
        TAILS,
        "transform(lower) > -_HIGHEST_QUANTILE",
        "transform(lower) < -_HIGHEST_QUANTILE",
        "A Gaussianization flow is extended where it has no slope.",
    ),
    Mutation(
        TAILS,
        "_HIGHEST_QUANTILE = 4.0",
        "_HIGHEST_QUANTILE = 40.0",
        "A Gaussianization flow has no density beyond its last digit.",
    ),
]
