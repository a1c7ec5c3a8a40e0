"""Cells: the values of independent entries, cut into pieces, for integrals and for draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

# Steps of the Metropolis-Hastings chain that corrects a draw. About one proposal in a hundred is
# rejected, so far fewer would do.
_STEPS = 5


@dataclass(frozen=True, eq=False)
class Cells:
    r"""The values of independent entries, cut into N cells, each with a node.

    A value is an increasing function of a coordinate c, in which the density is smooth. So an
    expectation is a sum over the nodes, and a draw is one of a cell and of a place within it:

    .. math:: E[g(x)] \approx \sum_n m_n \, g(x(c_n)), \qquad
        m_n \propto p(x(c_n)) \, x'(c_n) \, \Delta_n

    The steps of the sum are the widths of the cells, unless the rule says otherwise.

    Args:
        left: the lowest coordinate of each cell, ``[N, *batch, E]`` or a shape that broadcasts.
        width: its width; a cell without a width has no draws.
        node: the coordinate of its node :math:`c_n`.
        locate: computes values from coordinates.
        log_density: computes the log density of coordinates, up to a constant for each entry.
        step: the steps :math:`\Delta_n` of the sum; ``None`` if they are the widths.
        is_discrete: whether draws are rounded to whole numbers.

    Example:
        >>> from lowerbound.distributions import FactorialStudentT
        >>> p = FactorialStudentT(torch.tensor([0.5]), torch.zeros(1), torch.tensor([5.0]))
        >>> cells = p.cells()
        >>> (cells.log_masses.exp() * cells.values.square()).sum(0)  # 1.9167 with the whole tails
        tensor([1.9165])
    """

    left: Tensor
    width: Tensor
    node: Tensor
    locate: Function
    log_density: Function
    step: Tensor | None = None
    is_discrete: bool = False

    @property
    def values(self) -> Tensor:
        """The values at the nodes, ``[N, *batch, E]``."""
        return self.locate(self.node)

    @property
    def log_masses(self) -> Tensor:
        """The logarithms of the nodes' shares, in a shape that broadcasts with values."""
        step = self.width if self.step is None else self.step
        return (self.log_density(self.node) + step.log()).log_softmax(0)

    def log_expectation(self, log_function: Function) -> Tensor:
        """The logarithm of the expectation of a positive function, ``[*batch, E]``.

        Args:
            log_function: computes the logarithm of the function from values.
        """
        return (self.log_masses + log_function(self.values)).logsumexp(0)

    @torch.no_grad()
    def draw(self, log_function: Function, draw_uniform: Callable[[], Tensor]) -> Tensor:
        """Draw from the density in proportion to a positive function, ``[*batch, E]``.

        A cell is chosen by its mass, and a coordinate is uniform within it. A few steps of an
        independence Metropolis-Hastings chain correct what the density varies within cells. Each
        draw needs the same number of uniform variables, whatever the other entries are.

        Args:
            log_function: computes the logarithm of the function from values.
            draw_uniform: draws from the uniform distribution on [0, 1), ``[*batch, E]``. Where the
                density has a batch of 1, it may have more, for as many draws from that density.

        Source: Tierney 1994, "Markov chains for exploring posterior distributions", section 2.3.3.
        """
        log_target = self.log_density(self.node) + log_function(self.values)
        log_masses = (log_target + self.width.log()).log_softmax(0)
        cumulative = log_masses.exp().cumsum(0)

        def propose() -> tuple[Tensor, Tensor]:
            cell = (
                (cumulative <= draw_uniform()).sum(0, keepdim=True).clamp(max=len(cumulative) - 1)
            )
            left, width, log_mass = (
                each.expand(-1, *cell.shape[1:]).gather(0, cell).squeeze(0)
                for each in (self.left, self.width, log_masses)
            )
            place = left + width * draw_uniform()
            value = self.locate(place)
            log_target = self.log_density(place) + log_function(value)
            return value, log_target - log_mass + width.log()

        value, log_weight = propose()
        for _ in range(_STEPS):
            new, log_new = propose()
            accepted = draw_uniform().log() < log_new - log_weight
            value = torch.where(accepted, new, value)
            log_weight = torch.where(accepted, log_new, log_weight)
        return value.round() if self.is_discrete else value
