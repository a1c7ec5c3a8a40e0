"""Latents in several groups, each of which may be drawn given others, as one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from lowerbound.distributions.supports import is_mass
from lowerbound.runtime import noise
from lowerbound.runtime.modes import seeded

Visit = Callable[[str, Distribution], Tensor]
"""Receives the name of a group and its distribution, and returns the group's latents."""


class Hierarchy(Distribution):
    r"""The joint distribution of several groups of latents, as one over the concatenated vector.

    .. math:: p(z) = \prod_g p(z_g \mid \text{groups before } g)

    Args:
        walk: calls its argument with the name and the distribution of each group, in an order in
            which each depends only on groups before, and continues with the latents that the
            argument returns.
        groups: a distribution for each group, in the order of the vector, at any latents of the
            groups before. They give the shapes and the supports.
        batch_shape: that of the first group. A later group has the shape of the draws before it.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> def walk(visit):
        ...     z = visit("top", standard)
        ...     visit("bottom", Independent(Normal(z, 1.0), 1))
        >>> standard = Independent(Normal(torch.zeros(2), 1.0), 1)
        >>> p = Hierarchy(walk, {"bottom": standard, "top": standard})
        >>> p.event_shape, p.sample((3,)).shape, p.log_prob(torch.zeros(3, 4)).shape
        (torch.Size([4]), torch.Size([3, 4]), torch.Size([3]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(
        self,
        walk: Callable[[Visit], Any],
        groups: Mapping[str, Distribution],
        batch_shape: Any = (),
    ) -> None:
        self.walk = walk
        self.groups = dict(groups)
        self.sizes = [group.event_shape.numel() for group in self.groups.values()]
        super().__init__(Size(batch_shape), Size((sum(self.sizes),)), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether all groups can be reparameterised."""
        return all(group.has_rsample for group in self.groups.values())

    @property
    def support(self) -> Any:
        """The vectors whose pieces lie in the supports of the groups.

        Raises:
            NotImplementedError: if a group does not say what its support is.
        """
        groups = list(self.groups.values())
        return _Pieces(self, [group.support for group in groups], any(map(is_mass, groups)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Hierarchy:
        """The same distribution, repeated over ``batch_shape``."""
        return Hierarchy(self.walk, self.groups, batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, J]``: each group is drawn given those before."""
        with torch.no_grad():
            return self._draw(Size(sample_shape), lambda group, size: group.sample(size))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, ``[*sample_shape, *batch, J]``."""
        return self._draw(Size(sample_shape), lambda group, size: group.rsample(size))

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum over the groups of their log densities, in nats."""
        pieces, terms = self.split(value), []

        def score(name: str, group: Distribution) -> Tensor:
            terms.append(group.log_prob(pieces[name]))
            return pieces[name]

        self.walk(score)
        return sum(terms[1:], terms[0])

    def split(self, value: Tensor) -> dict[str, Tensor]:
        """Split vectors ``[..., J]`` into the groups' latents, ``[..., *units]`` by name."""
        pieces = value.split(self.sizes, -1)
        return {
            name: piece.reshape(*piece.shape[:-1], *group.event_shape)
            for (name, group), piece in zip(self.groups.items(), pieces, strict=True)
        }

    def join(self, pieces: Mapping[str, Tensor]) -> Tensor:
        """Concatenate the groups' latents, ``[..., *units]`` each, to vectors ``[..., J]``."""
        vectors = []
        for name, group in self.groups.items():
            piece = pieces[name]
            event_dims = len(group.event_shape)
            vectors.append(piece.reshape(*piece.shape[: piece.dim() - event_dims], -1))
        return torch.cat(vectors, -1)

    def _draw(self, size: Size, draw: Callable[[Distribution, Size], Tensor]) -> Tensor:
        pieces: dict[str, Tensor] = {}

        def visit(name: str, group: Distribution) -> Tensor:
            pieces[name] = self._draw_group(group, size, draw)
            return pieces[name]

        self.walk(visit)
        return self.join(pieces)

    def _draw_group(
        self, group: Distribution, size: Size, draw: Callable[[Distribution, Size], Tensor]
    ) -> Tensor:
        if group.batch_shape == size + self.batch_shape:  # it depends on draws before
            return draw(group, Size())
        if group.batch_shape != self.batch_shape:
            try:
                group = group.expand(self.batch_shape)
            except NotImplementedError:  # a flow of another library
                return draw(group, size + self.batch_shape)
        return draw(group, size)


def outline(
    walk: Callable[[Visit], Any], order: Sequence[str], batch_shape: Any, device: torch.device
) -> dict[str, Distribution]:
    """Find the distribution of each group at some draws of the groups before.

    Args:
        walk: as for :class:`Hierarchy`.
        order: the names of the groups in the order of the result.
        batch_shape: ``[B]``, or ``[]`` for groups that do not depend on examples.
        device: of the draws. They use noise of their own, so no other draws change.
    """
    groups: dict[str, Distribution] = {}
    examples = Size(batch_shape).numel()

    def visit(name: str, group: Distribution) -> Tensor:
        groups[name] = group
        if group.batch_shape:
            return group.sample()
        return group.sample(Size((examples,)))

    same = torch.zeros(examples, dtype=torch.long)
    with torch.no_grad(), seeded(0, device), noise.per_example(0, same):
        walk(visit)
    return {name: groups[name] for name in order}


class _Pieces(constraints.Constraint):
    """Vectors whose pieces, which belong to the groups of a hierarchy, satisfy constraints."""

    event_dim = 1

    def __init__(self, hierarchy: Hierarchy, supports: list[Any], is_discrete: bool) -> None:
        self.hierarchy = hierarchy
        self.supports = supports
        self.is_discrete = is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        pieces = self.hierarchy.split(value).values()
        inside = []
        for piece, support in zip(pieces, self.supports, strict=True):
            inside.append(support.check(piece).reshape(*value.shape[:-1], -1).all(-1))
        return torch.stack(inside).all(0)
