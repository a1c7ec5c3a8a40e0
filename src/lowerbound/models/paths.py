"""Gradients at groups of latents, if some groups are drawn given others.

A later latent depends on an earlier one, because it is drawn from a distribution with parameters
that a network computes from the earlier one. Automatic differentiation with respect to the earlier
latent therefore follows the later one too. The doubly reparameterised gradient needs the partial
derivatives of a density of all latents instead, in which each latent is a coordinate of its own.

Suffixes of shapes: K draws, B examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def partial_gradients(value: Tensor, latents: Sequence[Tensor]) -> list[Tensor]:
    """Partial derivatives of a sum with respect to each of some latents, the others fixed.

    Args:
        value: the tensor whose sum is differentiated.
        latents: ``[K, B, ...]`` each, in the order in which they were drawn; all require a
            gradient.

    Returns:
        A tensor for each latent, of the same shape.
    """
    if not value.requires_grad:
        return [torch.zeros_like(z) for z in latents]
    total = torch.autograd.grad(value.sum(), latents, retain_graph=True, allow_unused=True)
    found: list[Tensor] = []
    # From the last to the first: the contribution of a latent through later ones is subtracted.
    for place in reversed(range(len(latents))):
        own = _replace_missing(total[place], latents[place])
        if found:
            (later,) = torch.autograd.grad(
                latents[place + 1 :], latents[place], found, retain_graph=True, allow_unused=True
            )
            own = own if later is None else own - later
        found.insert(0, own)
    return found


def zero_with_gradients(gradients: Sequence[Tensor], latents: Sequence[Tensor]) -> Tensor:
    """0, ``[K, B]``, with these gradients at these latents and no others."""
    terms = [
        # Linear in z; its value is subtracted again.
        (gradient * (z - z.detach())).reshape(*z.shape[:2], -1).sum(2)
        for gradient, z in zip(gradients, latents, strict=True)
    ]
    return sum(terms[1:], terms[0])


def depends_on(z: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a gradient flows from ``z`` back to one of the others."""
    others = [other for other in others if other.requires_grad]
    if not others or not z.requires_grad:
        return False
    # Autograd computes nothing if no other latent lies between the two.
    reached = torch.autograd.grad(z.sum(), others, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in reached)


def _replace_missing(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
