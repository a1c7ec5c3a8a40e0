"""pythae: its own trainer, an epoch at a time, with networks of the task's sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from tasks import LEARNING_RATE, Task, load

from contenders.lowerbound_ import make


class Encoder(BaseEncoder):
    """The encoder: mean and log variance of q."""

    def __init__(self, network: torch.nn.Module) -> None:
        BaseEncoder.__init__(self)
        self.network = network

    def forward(self, x: torch.Tensor) -> ModelOutput:
        """The parameters of q for a batch."""
        loc, log_variance = self.network(x.flatten(1)).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """The decoder: probabilities, because pythae's cross entropy takes them."""

    def __init__(self, network: torch.nn.Module) -> None:
        BaseDecoder.__init__(self)
        self.network = network

    def forward(self, z: torch.Tensor) -> ModelOutput:
        """The probabilities for a batch of latents."""
        return ModelOutput(reconstruction=self.network(z).sigmoid())


def build(task: Task) -> VAE:
    """The task's model as one of pythae's."""
    ours, _ = make(task)
    config = VAEConfig(
        input_dim=(task.dimensions,), latent_dim=task.latent, reconstruction_loss="bce"
    )
    return VAE(
        config, encoder=Encoder(ours.posterior.network), decoder=Decoder(ours.likelihood.network)
    )


def run(task: Task, folder: Path, conversation: Any) -> None:
    """Train until no more requests come."""
    train, test = (torch.from_numpy(values).flatten(1).float() for values in load(task, folder))
    model = build(task)
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=100,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=task.batch,
        optimizer_cls="Adam",
        no_cuda=True,
        seed=1,
    )
    trainer = BaseTrainer(
        model, BaseDataset(train, torch.zeros(len(train))), training_config=settings
    )
    trainer.prepare_training()

    @torch.no_grad()
    def bound() -> float:
        model.eval()
        return -float(model({"data": test}).loss)

    for number in conversation(bound).rounds(task):
        trainer.train_step(number)
