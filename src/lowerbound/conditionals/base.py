"""The one kind of which priors, posteriors and likelihoods are: modules that return distributions."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.describe import KINDS
from lowerbound.errors import DataError

HALF = (torch.float16, torch.bfloat16)


class Conditional(nn.Module, ABC):
    """A distribution that depends on what it is given: ``forward(*given)`` returns a ``torch.distributions.Distribution``.

    A prior p(z) is given nothing, an encoder q(z given x) is given x ``[B, *event]``, a decoder p(x given z) is given z
    ``[K, B, J]`` and must keep the leading dimensions as the batch shape of what it returns.

    To write your own: subclass :class:`Parametric` if a network gives all parameters, else this class, and return a
    distribution from ``forward``. Override :meth:`check_data` if data can lie outside of the support.
    Any other module whose ``forward`` returns a distribution, such as a flow of the library zuko, serves as well.
    """

    network_dtype: torch.dtype | None = None  # see networks_in

    needs: tuple[str, ...] = ()
    """Names of the fields of each example that ``forward`` takes as keywords."""

    accepts: tuple[str, ...] = ()
    """Names of fields that ``forward`` takes as keywords where the examples have them."""

    normalized: bool = True
    """Whether it is a density or a mass; without that, what it gives is a score, and no bound follows."""

    @abstractmethod
    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution, given these values and the fields that it needs."""

    def extra_repr(self) -> str:
        """The settings of a describable conditional, apart from its network."""
        if type(self).__name__ not in KINDS:
            return ""
        names = [name for name in inspect.signature(type(self)).parameters if name != "network"]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data") -> None:
        """Refuse observations outside of the distribution's support, by name.

        Args:
            x: observations as they would be scored, ``[B, *event]``.
            rows: their positions in the dataset, ``[B]``.
            name: what the message calls the dataset.

        Raises:
            DataError: if there is something to refuse.
        """

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor:
        """The network's output, in float32 at least: terms of a bound are never computed in half precision."""
        own = next((parameter.dtype for parameter in network.parameters()), None)
        if own in HALF:
            given = tuple(value.to(own) for value in given)
        if own == torch.float32 and self.network_dtype is not None and given:
            with torch.autocast(given[0].device.type, self.network_dtype, cache_enabled=False):
                raw: Tensor = network(*given, **fields)
        else:
            raw = network(*given, **fields)
        return raw.float() if raw.dtype in HALF else raw


@contextmanager
def networks_in(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Within the block, the networks of a model's conditionals multiply matrices in this type.

    Their weights keep their type, and everything after a network's output does too, so the terms
    of a bound are computed in float32. A flow of another library is not a conditional of ours, and
    computes as ever.

    The type is an attribute of each conditional. A variable of the thread or of the context would
    not do: what is checkpointed is computed once more by threads that torch starts.

    Args:
        model: whose conditionals to switch.
        dtype: of the matrix products; ``None`` for the networks' own.
    """
    if dtype is None:
        yield
        return
    before = {
        module: module.network_dtype
        for module in model.modules()
        if isinstance(module, Conditional)
    }
    for module in before:
        module.network_dtype = dtype
    try:
        yield
    finally:
        for module, own in before.items():
            module.network_dtype = own


class Parametric(Conditional):
    """A conditional whose parameters are the output of ``self.network``, which can therefore be refined for each example.

    To write your own: subclass, keep the network under ``self.network``, and return a distribution from
    :meth:`from_parameters`.
    """

    network: nn.Module

    @abstractmethod
    def from_parameters(self, raw: Tensor) -> Distribution:
        """The distribution of these outputs of the network, ``[*leading, *outputs]``."""

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution, given these values and the fields that the network needs."""
        return self.from_parameters(self.parameters_from(self.network, *given, **fields))


def fields_for(part: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fields that a part of a model takes, of all that are given: those it needs or accepts.

    Raises:
        DataError: if one that it needs is not given, naming it.
    """
    needs, accepts = getattr(part, "needs", ()), getattr(part, "accepts", ())
    lacking = [name for name in needs if name not in given]
    if lacking:
        raise DataError(
            f"{type(part).__name__} needs the field {lacking[0]!r}, which is not given; pass "
            f"{lacking[0]}=..., or examples that have it as a field"
        )
    return {name: given[name] for name in (*needs, *accepts) if name in given}


def event_dims_of(network: nn.Module) -> int:
    """How many trailing dimensions of a network's output make one event; 1 where the network does not declare it."""
    return len(getattr(network, "output_shape", None) or (1,))
