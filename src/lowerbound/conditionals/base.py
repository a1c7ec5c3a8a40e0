"""Conditionals: modules that return distributions, as priors, posteriors and likelihoods do."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.describe import KINDS
from lowerbound.errors import DataError, UnsupportedError
from lowerbound.networks import check_module, set_output_bias

LOW_PRECISION = (torch.float16, torch.bfloat16)
"""Floating types that are too imprecise for the terms of a bound."""

# The number of draws from which the Fisher information of a network's outputs is estimated.
_DRAWS = 100

# The draws are made in groups of at most this many outputs, because those of a large picture with
# 256 levels would need many gigabytes.
_MOST_OUTPUTS = 1 << 24


class Conditional(nn.Module, ABC):
    """A module whose ``forward(*given)`` returns a ``torch.distributions.Distribution``.

    A prior p(z) takes no input. An encoder q(z|x) takes x, ``[B, *event]``. A decoder p(x|z)
    takes z, ``[K, B, J]``, and must return a distribution of batch shape ``[K, B]``.

    To write your own: subclass :class:`Parametric` if one network gives all parameters, else this
    class, and return a distribution from ``forward``. Then, as far as it applies:

    - name fields of the examples in :attr:`needs` or :attr:`accepts`, to receive them as keywords;
    - set :attr:`normalized` to False if the result is a score rather than a density or a mass;
    - override :meth:`check_data` to explain which data lie outside of the support, and
      :meth:`check_fields` to refuse fields that cannot be used;
    - override :meth:`Parametric.marginal_outputs`, or else :meth:`start_from`, so that training
      starts from the data;
    - decorate it with :func:`lowerbound.describable`, so that a saved model is rebuilt from its
      file.

    Any other module whose ``forward`` returns a distribution, such as a flow of the library zuko,
    serves as well.
    """

    network_dtype: torch.dtype | None = None  # see networks_in

    needs: tuple[str, ...] = ()
    """Names of the fields of each example that ``forward`` takes as keywords."""

    accepts: tuple[str, ...] = ()
    """Names of fields that ``forward`` takes as keywords if the examples have them."""

    normalized: bool = True
    """Whether it is a density or a mass. Otherwise it is a score, from which no bound follows."""

    learns_from_scores: bool = False
    """Whether in training it learns from the values that it scores, as an optimal scale does."""

    modules_by_name: ClassVar[Mapping[str, str]] = {}
    """The attributes that must be modules, each with an example of one."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.modules_by_name:
            check_module(f"{type(self).__name__}: {name}", value, self.modules_by_name[name])
        super().__setattr__(name, value)

    @abstractmethod
    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution, given these values and the fields that it needs."""

    def extra_repr(self) -> str:
        """The settings of a describable conditional, apart from its modules."""
        if type(self).__name__ not in KINDS:
            return ""
        names = inspect.signature(type(self)).parameters
        settings = {name: getattr(self, name) for name in names}
        return ", ".join(
            f"{name}={value!r}"
            for name, value in settings.items()
            if not isinstance(value, nn.Module)
        )

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse observations outside of the distribution's support, by name.

        The support that the distribution declares is checked in any case. Override this method to
        say more about the cause and the remedy.

        Args:
            x: observations as they would be scored, ``[B, *event]``.
            rows: their positions in the dataset, ``[B]``.
            name: what the message calls the dataset.
            fields: those that the conditional needs or accepts, ``[B, ...]`` each.

        Raises:
            DataError: naming the first row that is refused.
        """

    def check_fields(self, fields: Mapping[str, Tensor], rows: Tensor, name: str = "data") -> None:
        """Refuse fields that cannot be used, by name.

        Args:
            fields: all that are given, ``[B, ...]`` each.
            rows: the positions of these examples in the dataset, ``[B]``.
            name: what the message calls the dataset.

        Raises:
            DataError: naming the field and the first row that is refused.
        """

    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set the parameters so that, whatever the input, it fits each entry of some data.

        :func:`lowerbound.fit` calls it before the first step. By default nothing changes.

        Args:
            x: data as they would be scored, ``[N, *event]``, with NaN where an entry was not
                observed.
            fields: those that the conditional needs or accepts, ``[N, ...]`` each.
        """

    def start_prior_from(self, x: Tensor) -> None:
        """Set the parameters of a prior p(z) so that training starts from some data.

        :func:`lowerbound.fit` calls it before the first step. By default nothing changes.

        Args:
            x: data, ``[N, *event]``.
        """

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor:
        """The network's output, in float32 at least, as all terms of a bound are."""
        return call_network(network, self.network_dtype, *given, **fields)


def call_network(
    network: nn.Module, dtype: torch.dtype | None, *given: Tensor, **fields: Tensor
) -> Tensor:
    """Compute a network's output, in float32 at least.

    Args:
        network: any module.
        dtype: the type in which it multiplies matrices; ``None`` for its own.
        given: its positional arguments.
        fields: its keyword arguments.

    Raises:
        UnsupportedError: if nothing is given to a network that needs an input.
    """
    if not given:
        return to_full_precision(_call_without_input(network, fields))
    own = next((parameter.dtype for parameter in network.parameters()), None)
    if own in LOW_PRECISION:
        given = tuple(value.to(own) for value in given)
    if own == torch.float32 and dtype is not None:
        with torch.autocast(given[0].device.type, dtype, cache_enabled=False):
            raw: Tensor = network(*given, **fields)
    else:
        raw = network(*given, **fields)
    return to_full_precision(raw)


def _call_without_input(network: nn.Module, fields: Mapping[str, Tensor]) -> Tensor:
    try:
        raw: Tensor = network(**fields)
    except TypeError as error:
        if isinstance(error, UnsupportedError):
            raise
        raise UnsupportedError(
            f"nothing is given to the network {type(network).__name__} ({error}). A prior has no "
            "input, so use lb.constant(...) as its network, or let the prior depend on a field by "
            "lb.Given"
        ) from None
    return raw


def to_full_precision(value: Tensor) -> Tensor:
    """Return the value in float32 at least."""
    if value.dtype in LOW_PRECISION:
        return value.float()
    return value


@contextmanager
def networks_in(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Within the block, the networks of a model's conditionals multiply matrices in this type.

    This includes networks that a model calls itself, if it has the attribute ``network_dtype``.

    Their weights keep their type, and everything after a network's output does too, so the terms of
    a bound are computed in float32. A flow of another library is not a :class:`Conditional`, and
    its precision does not change.

    The type is an attribute of each conditional, not a variable of the thread or the context,
    because torch recomputes checkpointed activations in threads that it starts itself.

    Args:
        model: whose conditionals to switch.
        dtype: of the matrix products; ``None`` for the networks' own.
    """
    if dtype is None:
        yield
        return
    before: dict[Any, torch.dtype | None] = {
        module: getattr(module, "network_dtype")  # noqa: B009 (not every module has it)
        for module in model.modules()
        if hasattr(module, "network_dtype")
    }
    for module in before:
        module.network_dtype = dtype
    try:
        yield
    finally:
        for module, own in before.items():
            module.network_dtype = own


class Parametric(Conditional):
    """A conditional whose parameters are the output of ``self.network``.

    These parameters can therefore be refined for each example, as :func:`lowerbound.refine` does.

    To write your own: subclass, assign the network to ``self.network``, and return a distribution
    from :meth:`from_parameters`.
    """

    modules_by_name: ClassVar[Mapping[str, str]] = {"network": "lb.mlp(...)"}

    network: nn.Module

    @abstractmethod
    def from_parameters(self, raw: Tensor) -> Distribution:
        """The distribution of these outputs of the network, ``[*leading, *outputs]``."""

    def marginal_outputs(self, x: Tensor) -> Tensor | None:
        """Find outputs of the network at which the distribution fits each entry of some data.

        The same outputs are used for all examples, so they do not depend on the network's input.

        Args:
            x: data, ``[N, *event]``, with NaN where an entry was not observed.

        Returns:
            The outputs, ``[*outputs]``, or ``None`` if they are not known, as by default.
        """
        return None

    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set the bias of the network's last layer to :meth:`marginal_outputs`.

        The layer's weights are random, and so is what they add to the outputs. They are scaled down
        where that would change log probabilities by more than about a nat.
        """
        outputs = self.marginal_outputs(x)
        if outputs is not None:
            set_output_bias(self.network, outputs, self._find_one_nat_steps(outputs))

    @torch.enable_grad()
    def _find_one_nat_steps(self, outputs: Tensor) -> Tensor:
        """Find how much each output must change to change log probabilities by about a nat.

        It is the inverse root of the output's Fisher information, estimated from draws, and at most
        1: ``[*outputs]``.
        """
        information = torch.zeros_like(outputs)
        at_once = min(_DRAWS, max(1, _MOST_OUTPUTS // outputs.numel()))
        for start in range(0, _DRAWS, at_once):
            draws = min(at_once, _DRAWS - start)
            raw = outputs.expand(draws, *outputs.shape).clone().requires_grad_()
            p = self.from_parameters(raw)
            with torch.no_grad():
                x = p.sample()
            (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), raw)
            information += draws / _DRAWS * gradient.square().mean(0)
        return information.nan_to_num(0.0, 0.0, 0.0).rsqrt().clamp(max=1.0)

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution, given these values and the fields that the network needs."""
        return self.from_parameters(self.parameters_from(self.network, *given, **fields))


def select_fields(part: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the fields that a part of a model needs or accepts from those that are given.

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


def check_fields(
    model: nn.Module, fields: Mapping[str, Tensor], rows: Tensor, name: str = "data"
) -> None:
    """Refuse fields that a conditional within a model cannot use, see :class:`Conditional`.

    Raises:
        DataError: naming the field and the row.
    """
    for module in model.modules():
        if isinstance(module, Conditional):
            module.check_fields(fields, rows, name)


def list_field_names(kind: Literal["needs", "accepts"], *parts: nn.Module) -> tuple[str, ...]:
    """List the names of the fields that some parts of a model need or accept, each once."""
    return tuple(dict.fromkeys(name for part in parts for name in getattr(part, kind, ())))


def event_dims_of(network: nn.Module) -> int:
    """The number of trailing dimensions of a network's output that make one event.

    It is 1 if the network does not declare its ``output_shape``.
    """
    return len(getattr(network, "output_shape", None) or (1,))
