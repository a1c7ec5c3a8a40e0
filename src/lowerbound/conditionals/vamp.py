"""The prior that is a mixture of posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import Conditional, to_full_precision
from lowerbound.data.examples import Examples
from lowerbound.describe import describable
from lowerbound.distributions import Mixture
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.settings import check_whole_number


@describable
class VampPrior(Conditional):
    r"""The variational mixture of posteriors: q(z|u), averaged over learned pseudo-inputs u.

    .. math:: p(z) = \frac1K \sum_{k=1}^K q(z \mid u_k)

    Tomczak & Welling, *VAE with a VampPrior* (2018). The encoder is the model's own, and is trained
    as both: pass one module as the prior's posterior and as the model's. It stays one module when
    the model is saved and loaded. KL(q || p) has no closed form, so the rate is sampled.

    Args:
        posterior: q(z|x), the model's.
        pseudo_inputs: the initial values of the K pseudo-inputs, ``[K, *event]``: examples, an
            array or a tensor, such as some of the training data. 8-bit pixels are scaled to [0, 1].
            A number, K: they are random, and :func:`lowerbound.fit` starts them at K of the
            training examples. The pseudo-inputs are trained, and are not bounded.

    Raises:
        DataError: if the pseudo-inputs are not data that can be trained on.
        SettingsError: if the posterior needs fields in addition to x; for a number of pseudo-inputs
            below 1, or if the posterior's network does not declare its ``input_shape``.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> encoder = lb.Gaussian(lb.mlp((1, 8, 8), 32, 4))
        >>> vae = lb.LatentModel(
        ...     prior=lb.VampPrior(encoder, digits.train.spread(50)),
        ...     posterior=encoder,
        ...     likelihood=lb.Gaussian(lb.mlp(2, 32, (2, 8, 8))),
        ... )
        >>> vae.prior().components.batch_shape, vae.sample(3).shape
        (torch.Size([50]), torch.Size([3, 1, 8, 8]))
    """

    modules_by_name: ClassVar[Mapping[str, str]] = {"posterior": "lb.Gaussian(...)"}

    def __init__(self, posterior: nn.Module, pseudo_inputs: Any) -> None:
        super().__init__()
        self.posterior = posterior
        needs = getattr(posterior, "needs", ())
        if needs:
            raise SettingsError(
                f"VampPrior: the posterior needs {', '.join(needs)}, which pseudo-inputs do not "
                "have; use a posterior that takes only x"
            )
        self.starts_at_data = isinstance(pseudo_inputs, int)
        if isinstance(pseudo_inputs, int):
            pseudo_inputs = _draw_inputs(posterior, pseudo_inputs)
        examples = Examples.of(pseudo_inputs, name="pseudo_inputs").prepare("as-is")
        rows = torch.arange(len(examples), device=examples.values.device)
        self.pseudo_inputs = nn.Parameter(examples.batch(rows, torch.get_default_dtype()))

    @torch.no_grad()
    def start_prior_from(self, x: Tensor) -> None:
        """Set the pseudo-inputs to evenly spaced examples, if only their number was given."""
        if self.starts_at_data:
            rows = torch.linspace(0, len(x) - 1, len(self.pseudo_inputs)).round().long()
            self.pseudo_inputs.copy_(x[rows.to(x.device)])

    def extra_repr(self) -> str:
        """The number of components, without the pseudo-inputs' values."""
        return f"components={len(self.pseudo_inputs)}"

    def forward(self, *given: Tensor) -> Mixture:
        """The mixture, batch shape ``[]``.

        Raises:
            ShapeError: if the posterior does not give one distribution for each pseudo-input.
            UnsupportedError: if it does not give distributions.
        """
        components = self.posterior(self.pseudo_inputs)
        if not isinstance(components, Distribution):
            raise UnsupportedError(
                f"VampPrior: the posterior returned a {type(components).__name__}, which is not a "
                "torch.distributions.Distribution"
            )
        count = len(self.pseudo_inputs)
        if components.batch_shape != (count,):
            raise ShapeError(
                f"VampPrior: the posterior returned batch shape {tuple(components.batch_shape)} "
                f"for {count} pseudo-inputs; expected ({count},)"
            )
        return Mixture(components, to_full_precision(self.pseudo_inputs.new_zeros(count)))


def _draw_inputs(posterior: nn.Module, count: int) -> Tensor:
    """Draw uniform pseudo-inputs of the shape that the posterior takes, ``[K, *event]``."""
    count = check_whole_number("VampPrior: pseudo_inputs", count)
    shape = getattr(getattr(posterior, "network", posterior), "input_shape", None)
    if shape is None:
        raise SettingsError(
            "VampPrior: a number of pseudo-inputs needs a posterior whose network declares its "
            "input_shape; pass examples instead"
        )
    return torch.rand(count, *shape)
