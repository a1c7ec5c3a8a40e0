"""The base of objectives with a penalty: they report the ELBO, or log it beside a score."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from lowerbound.errors import UnsupportedError
from lowerbound.models import Draw, Latent
from lowerbound.objectives.base import Objective, check_common
from lowerbound.objectives.elbo import ELBO

KL = Literal["auto", "closed-form", "sampled"]


class Penalised(Objective):
    """The base of objectives that subtract a penalty, such as one on the aggregate posterior.

    The rate is that of the ELBO. Use one of the two subclasses: :class:`PenalisedELBO`, or
    :class:`PenalisedReconstruction` if the penalty replaces the rate.

    Raises:
        UnsupportedError: on use, if the penalty is on draws and the model sums latents out, as
            :class:`lowerbound.EnumeratedModel` does: its draws give the encoder no gradient.
    """

    penalises_draws: ClassVar[bool] = True
    """Whether the gradient of the penalty goes through the draws z, and not only through q."""

    _elbo: ClassVar[ELBO]  # an attribute of each instance, but not a setting

    kl: KL = "auto"

    def __post_init__(self) -> None:
        check_common(self)
        object.__setattr__(self, "_elbo", ELBO(self.samples, self.kl))

    @abstractmethod
    def penalty(self, draw: Draw) -> Tensor:
        """What is subtracted, ``[B]``. It may depend on all examples of the batch."""

    def checked_penalty(self, draw: Draw) -> Tensor:
        """The penalty, ``[B]``, if its gradient reaches the encoder; see the class for the error.

        Raises:
            UnsupportedError: see the class.
        """
        if self.penalises_draws and draw.weight_term is not None:
            raise UnsupportedError(
                f"{type(self).__name__} penalises draws of z, but this model sums latents out, so "
                "the penalty would not train its encoder; use lb.ELBO, or a model that draws all "
                "of its latents"
            )
        return self.penalty(draw)

    def rate(self, draw: Draw) -> Tensor:
        """The rate of the ELBO, ``[B]``."""
        return self._elbo.rate(draw)

    def group_rates(self, draw: Draw) -> dict[str, Tensor]:
        """The rates of the ELBO by group of latents, ``[B]`` each."""
        return self._elbo.group_rates(draw)


class PenalisedELBO(Penalised):
    """Training maximises the ELBO less a penalty, and the ELBO is reported.

    To write your own: write a frozen dataclass with the fields ``samples`` and ``kl`` and the
    method ``penalty``. If it has a ``__post_init__``, this must call that of the base class.

    Example:
        >>> import torch, lowerbound as lb
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class SmallLatents(PenalisedELBO):
        ...     samples: int = 1
        ...     kl: str = "auto"
        ...
        ...     def penalty(self, draw):
        ...         return draw.z.square().flatten(2).sum(2).mean(0)
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> draw = vae.draw(torch.zeros(5, 6))
        >>> bool((SmallLatents().bound(draw) == lb.ELBO().bound(draw)).all())
        True
    """

    def bound(self, draw: Draw) -> Tensor:
        """The ELBO, ``[B]``."""
        return self._elbo.bound(draw)

    def surrogate(self, draw: Draw) -> Tensor:
        """The ELBO less the penalty, ``[B]``."""
        return self.bound(draw) - self.checked_penalty(draw)


class PenalisedReconstruction(Penalised):
    """Training maximises the expected log likelihood less a penalty, which is reported as a score.

    The score does not bound log p(x), because the penalty takes the place of the rate. The term
    ``elbo`` is logged beside the score, unless the posterior is a point, which has no ELBO.

    To write your own: as for :class:`PenalisedELBO`.
    """

    is_bound: ClassVar[bool] = False

    def bound(self, draw: Draw) -> Tensor:
        """``mean_k log p(x|z_k)`` less the penalty, ``[B]``: a score."""
        return draw.log_likelihood.mean(0) - self.checked_penalty(draw)

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """The score, its rate, its distortion, and the ELBO if there is one, ``[B]`` each."""
        terms = super().terms(draw)
        if all(getattr(latent.q, "normalized", True) for latent in draw.latents.values()):
            terms["elbo"] = self._elbo.bound(draw)
        return terms


def find_posteriors(draw: Draw, name: str) -> Mapping[str, Latent]:
    """Find the groups of latents of a draw, each with a posterior given the example alone.

    Raises:
        UnsupportedError: naming the objective, and the group whose posterior depends on other
            latents too, so that q(z) is not the mean of known densities.
    """
    if not draw.latents:
        raise UnsupportedError(
            f"{name}: the draws of this model do not say what q and the prior of its latents are; "
            "give Draw q and prior, or use Draw.of"
        )
    for group, latent in draw.latents.items():
        if len(latent.q.batch_shape) > 1:
            raise UnsupportedError(
                f"{name}: the posterior of {group!r} depends on other latents, and its aggregate "
                "over examples is not known; use a model whose posteriors depend on x alone"
            )
    return draw.latents
