"""pythae's models in the zoo: trained by its own trainer, and evaluated as models of lowerbound.

Their networks have the shapes and the initial weights of lowerbound's. pythae's ``get_nll`` returns
the log likelihood without the minus, for one image at a time, and its number of draws is a multiple
of its batch size. So :func:`convert` makes a model of lowerbound of the trained parts, which is the
same distribution, and whose log likelihood is estimated like that of all other cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.recipes import find_recipe

if TYPE_CHECKING:
    from zoo_cells import Cell, Scale

# pythae's flow has as many transforms and units as the recipe iaf.
FLOW = {"n_made_blocks": 4, "n_hidden_in_made": 2, "hidden_size": 128}


class Transformed(Distribution):
    """Draws from a distribution that went through a map, with the log density of each draw.

    The inverse of the map is not needed, so other points cannot be scored.

    Args:
        base: of batch shape ``[B]``.
        transform: from ``[N, J]`` to the mapped points, and the log determinants ``[N]``.
    """

    has_rsample = True

    def __init__(
        self, base: Distribution, transform: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base = base
        self.transform = transform

    def rsample_and_log_prob(self, shape: Size) -> tuple[Tensor, Tensor]:
        """Draws, ``[*shape, B, J]``, and their log densities, ``[*shape, B]``."""
        start = self.base.rsample(shape)
        z, log_determinant = self.transform(start.flatten(0, -2))
        log_q = self.base.log_prob(start) - log_determinant.reshape(start.shape[:-1])
        return z.reshape(start.shape), log_q

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008 (as torch declares it)
        """Draws, ``[*sample_shape, B, J]``."""
        return self.rsample_and_log_prob(sample_shape)[0]


class FlowPosterior(nn.Module):
    """A Gaussian posterior whose draws go through a flow that does not depend on the data."""

    def __init__(self, gaussian: nn.Module, flow: nn.Module) -> None:
        super().__init__()
        self.gaussian = gaussian
        self.flow = flow

    def forward(self, x: Tensor) -> Transformed:
        """The posterior of a batch."""
        return Transformed(self.gaussian(x), self._transform)

    def _transform(self, start: Tensor) -> tuple[Tensor, Tensor]:
        mapped = self.flow.inverse(start)
        return mapped.out, mapped.log_abs_det_jac


def convert(theirs: nn.Module) -> lb.LatentModel:
    """A model of pythae as one of lowerbound, with the same parts."""
    posterior: nn.Module = lb.Gaussian(theirs.encoder.network)
    prior: nn.Module = lb.StandardNormal(theirs.latent_dim)
    likelihood = lb.Bernoulli(theirs.decoder.network)
    if hasattr(theirs, "pseudo_inputs"):
        inputs = theirs.pseudo_inputs(theirs.idle_input).detach()
        prior = lb.VampPrior(posterior, inputs.reshape(-1, *theirs.model_config.input_dim))
    if hasattr(theirs, "iaf_flow"):
        posterior = FlowPosterior(posterior, theirs.iaf_flow)
    return lb.LatentModel(prior, posterior, likelihood)


def build(cell: Cell, shape: tuple[int, ...], seed: int) -> nn.Module:
    """The model of a cell, with networks of the same initial weights as lowerbound's."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from zoo_cells import BOUND_SAMPLES, COMPONENTS, NETWORK

    class Encoder(BaseEncoder):
        def __init__(self, network: nn.Module) -> None:
            BaseEncoder.__init__(self)
            self.network = network

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, network: nn.Module) -> None:
            BaseDecoder.__init__(self)
            self.network = network

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    ours, _ = find_recipe("aevb-bernoulli").build(shape, NETWORK, seed=seed)
    configuration, options = {
        "VAE": (models.VAEConfig, {}),
        "IWAE": (models.IWAEConfig, {"number_samples": BOUND_SAMPLES["samples"]}),
        "VAMP": (models.VAMPConfig, {"number_components": COMPONENTS["components"]}),
        "VAE_IAF": (models.VAE_IAF_Config, FLOW),
    }[cell.recipe]
    torch.manual_seed(seed)  # of the parts that are not networks of lowerbound
    made: nn.Module = getattr(models, cell.recipe)(
        configuration(
            input_dim=shape, latent_dim=NETWORK["latent"], reconstruction_loss="bce", **options
        ),
        encoder=Encoder(ours.posterior.network),
        decoder=Decoder(ours.likelihood.network),
    )
    return made


def train(
    cell: Cell, train_data: lb.Examples, scale: Scale, seed: int
) -> tuple[lb.LatentModel, dict[str, Any]]:
    """Train a model of pythae, an epoch at a time, whose data are binarised anew in each."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from zoo_cells import BATCH, LEARNING_RATE, measure_cpu_seconds

    model = build(cell, train_data.shape, seed)
    grey = train_data.values.float() / 255
    data = BaseDataset(grey.clone(), torch.zeros(len(grey)))
    generator = torch.Generator().manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=scale.epochs,
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=BATCH,
            optimizer_cls="Adam",
            no_cuda=True,
            seed=seed,
        )
        trainer = BaseTrainer(model, data, training_config=settings)
        trainer.prepare_training()
        before = measure_cpu_seconds()
        for epoch in range(1, scale.epochs + 1):
            torch.bernoulli(grey, generator=generator, out=data.data)
            loss = trainer.train_step(epoch)
            print(f"{cell.recipe}: epoch {epoch}, train bound {-loss:.2f} nats", flush=True)
        seconds = measure_cpu_seconds() - before
    record = {
        "cpu_seconds": seconds,
        "steps": scale.epochs * len(trainer.train_loader),
        "pythae": version("pythae"),
    }
    return convert(model.eval()), record
