"""Normalising flows of the library zuko, as conditionals that are saved like any other."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from functools import cache
from typing import Any, Self

from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from lowerbound.conditionals.base import Conditional, to_full_precision
from lowerbound.conditionals.linear_tails import import_zuko, with_linear_tails
from lowerbound.describe import describable
from lowerbound.distributions import NormalizingFlow
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.networks import Shape, as_shape, find_leading_shape
from lowerbound.settings import check_whole_number

# Names of flows in zuko.flows. A saved model can name only these.
_FLOWS = ("NICE", "RealNVP", "MAF", "NSF", "NCSF", "SOSPF", "NAF", "UNAF", "CNF", "GF", "BPF")

# Flows that zuko can invert only within an interval.
_WITHIN_BOUNDS = ("sospf", "naf", "unaf", "gf")


@cache
def find_flow_classes() -> dict[str, type[nn.Module]]:
    """Find the flows that the installed zuko has, by the names that :class:`Flow` takes.

    Example:
        >>> find_flow_classes()["nsf"]
        <class 'zuko.flows.spline.NSF'>
    """
    flows = import_zuko().flows

    class IAF(flows.MAF):  # type: ignore[misc, name-defined]
        """The inverse of a MAF: it draws in one pass, and scores a given point in D passes."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            flow: Any = self
            flow.transform = flow.transform.inv

    found = {name.lower(): getattr(flows, name) for name in _FLOWS if hasattr(flows, name)}
    return found | {"iaf": IAF}


@describable
class Flow(Conditional):
    r"""A normalising flow: a learned, invertible map of noise, by one of the architectures of zuko.

    .. math::
        \log p(y \mid c) = \log p_0(f_c(y))
        + \log \left| \det \frac{\partial f_c(y)}{\partial y} \right|

    Here :math:`p_0` is the flow's base, N(0, I) or for ``"ncsf"`` a uniform density, and c is the
    context: a prior has no context, and the context of a posterior is the data, flattened to a
    vector. The networks inside are zuko's (Rozet et al. 2022). Their parameters stay in float32 at
    least, even in a model in float16 or bfloat16. The mean and the variance have no closed form.

    ``"iaf"`` is the inverse of ``"maf"``. It draws in one pass through its networks and scores a
    given point in D passes; ``"maf"`` does the reverse. So an IAF is the faster posterior, whose
    draws are scored while they are made, and a MAF the faster prior. With the gradients
    ``"sticking-the-landing"`` and ``"dreg"``, draws are scored like given points, which is slow for
    an IAF.

    The inverses of ``"nice"``, ``"realnvp"``, ``"maf"``, ``"iaf"``, ``"nsf"`` and ``"ncsf"`` are
    exact. Those of ``"sospf"``, ``"naf"``, ``"unaf"``, ``"gf"`` and ``"bpf"`` are bisections
    between -10 and 10 (``"bpf"``: -5 and 5), with a tolerance of 1e-6. Outside of this interval
    each of their transforms continues as a straight line with the slope at the interval's end, and
    its inverse is exact. For ``"gf"`` the line starts where the transform reaches 4 standard
    deviations, if that is earlier. So every real number has a density, and draws may be of any
    size. A ``"cnf"`` integrates in both directions, to the tolerances ``atol`` and ``rtol`` among
    its options (by default 1e-6 and 1e-5).

    Args:
        name: the architecture, in small or capital letters: ``"nice"`` (Dinh et al. 2014),
            ``"realnvp"`` (Dinh et al. 2017), ``"maf"`` (Papamakarios et al. 2017), ``"nsf"``
            (Durkan et al. 2019), ``"iaf"`` (Kingma et al. 2016), ``"ncsf"`` (Rezende et al. 2020,
            for angles in [-pi, pi]), ``"sospf"`` (Jaini et al. 2019), ``"naf"`` (Huang et al.
            2018), ``"unaf"`` (Wehenkel & Louppe 2019), ``"cnf"`` (Grathwohl et al. 2018), ``"gf"``
            (Meng et al. 2020), ``"bpf"`` (Ramasinghe et al. 2021).
        features: D, the dimensions of the vectors ``[*leading, D]`` that it is over.
        context: the number of dimensions, or the shape ``event``, of its input,
            ``[*leading, *event]``; ``None`` for a flow that ignores its input.
        **options: passed to zuko's class, such as ``transforms=3`` or ``hidden_features=(64, 64)``.

    Raises:
        SettingsError: for an unknown name, a number of features below 1, or options that zuko
            refuses.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     prior=lb.Flow("nsf", 2, transforms=2),
        ...     posterior=lb.Flow("maf", 2, context=(1, 8, 8), transforms=2),
        ...     likelihood=lb.Bernoulli(lb.mlp(2, 32, (1, 8, 8))),
        ... )
        >>> vae.draw(torch.zeros(5, 1, 8, 8), samples=3).log_w.shape
        torch.Size([3, 5])
    """

    def __init__(
        self, name: str, features: int, context: int | Shape | None = None, **options: Any
    ) -> None:
        super().__init__()
        known = find_flow_classes()
        self.name = str(name).lower()
        if self.name not in known:
            raise SettingsError(f"Flow: {name!r} is unknown{_suggest_name(self.name, known)}")
        self.features = check_whole_number("Flow: features", features)
        self.context: Shape | None = None
        width = 0
        if context is not None:
            self.context = as_shape(context)
            width = math.prod(self.context)
        self.options = options
        try:
            self.flow = known[self.name](self.features, width, **options)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
            raise SettingsError(
                f"Flow: zuko's {known[self.name].__name__} refuses {self.features} features, a "
                f"context of {width} dimensions and {given}: {error}"
            ) from None

    @property
    def input_shape(self) -> Shape | None:
        """The shape of one context."""
        return self.context

    def forward(self, *given: Tensor) -> NormalizingFlow:
        """The flow for this context.

        Raises:
            ShapeError: if what is given does not end in the context's shape.
            UnsupportedError: if nothing is given to a flow that has a context.
        """
        if self.context is None:
            return self._wrap(self.flow())
        if not given:
            raise UnsupportedError(
                f"Flow: a flow with context={self.context} needs an input, but nothing is given. A "
                "prior is called without an input, so leave context out"
            )
        leading = find_leading_shape(given[0], self.context, self)
        dtype = next(self.parameters()).dtype
        return self._wrap(self.flow(given[0].reshape(*leading, -1).to(dtype)))

    def _wrap(self, flow: Any) -> NormalizingFlow:
        if self.name in _WITHIN_BOUNDS:
            flow.transform = with_linear_tails(flow.transform)
        support = None
        if self.name == "ncsf":
            support = constraints.independent(constraints.interval(-math.pi, math.pi), 1)
        return NormalizingFlow(_switch_checks_off(flow), support)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert as any module, but keep the parameters in float32 at least.

        In float16 or bfloat16 a flow's inverse is too inaccurate.
        """
        apply: Any = super()._apply
        apply(lambda tensor: to_full_precision(fn(tensor)), recurse)
        return self


def _suggest_name(name: str, known: dict[str, type[nn.Module]]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; choose one of {', '.join(sorted(known))}"


def _switch_checks_off(flow: Distribution) -> Distribution:
    """Switch torch's own checks off, because the errors of a training step say more."""
    part: Any = flow
    while part is not None:
        part._validate_args = False
        part = getattr(part, "base", None) or getattr(part, "base_dist", None)
    return flow
