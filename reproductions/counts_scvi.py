"""scvi-tools' SCVI for reproductions/counts.py: trained by its own trainer, and converted.

``get_marginal_ll`` of scvi-tools averages the means of its batches. :func:`convert` makes a model
of lowerbound of the trained parts instead, which is the same distribution, and whose log likelihood
is estimated like that of lowerbound's own model.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from typing import Any

from torch import Tensor, nn
from torch.distributions import Independent, Normal

import lowerbound as lb
from lowerbound.distributions import FactorialNegativeBinomial

# The settings with which SCVI has the network and the objective of the recipe `counts`. By default
# it has normalisation over batches, dropout, an encoder that does not receive the batch, and a
# weight of the rate that rises over 400 epochs.
SAME_NETWORK = {
    "use_batch_norm": "none",
    "dropout_rate": 0.0,
    "encode_covariates": True,
    "deeply_inject_covariates": False,
}
SAME_PLAN = {"n_epochs_kl_warmup": None, "weight_decay": 0.0, "eps": 1e-8}


class Posterior(nn.Module):
    """The encoder of SCVI as a posterior that may need the field ``batch``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.encoder = module.z_encoder
        self.is_given_batch = module.encode_covariates
        if self.is_given_batch:
            self.needs = ("batch",)

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Independent:
        """q(z|x), and given the batch."""
        hidden = self.encoder.encoder(x.log1p(), *([batch[:, None]] if self.is_given_batch else []))
        variance = self.encoder.var_activation(self.encoder.var_encoder(hidden))
        scale = (variance + self.encoder.var_eps).sqrt()
        return Independent(Normal(self.encoder.mean_encoder(hidden), scale), 1)


class Likelihood(nn.Module):
    """The decoder of SCVI as a likelihood, with the field ``batch`` and the exposures."""

    needs = ("batch", "exposure")

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.decoder = module.decoder
        self.log_inverse_dispersion = module.px_r

    def forward(self, z: Tensor, batch: Tensor, exposure: Tensor) -> FactorialNegativeBinomial:
        """p(x|z, batch): the decoder's shares of each gene, times the exposure."""
        batches = batch.expand(z.shape[:-1]).reshape(-1, 1)
        hidden = self.decoder.px_decoder(z.reshape(-1, z.shape[-1]), batches)
        log_share = self.decoder.px_scale_decoder[0](hidden).log_softmax(-1)
        log_mean = log_share.reshape(*z.shape[:-1], -1) + exposure.log()[:, None]
        return FactorialNegativeBinomial(log_mean, self.log_inverse_dispersion, 1)


def convert(module: nn.Module) -> lb.LatentModel:
    """A trained module of SCVI as a model of lowerbound, with the same parts."""
    module.eval()
    return lb.LatentModel(lb.StandardNormal(module.n_latent), Posterior(module), Likelihood(module))


def train(
    cells: Any, network: dict[str, int], epochs: int, batch_size: int, seed: int, *, same: bool
) -> tuple[Any, dict[str, Any]]:
    """Train SCVI on all cells.

    Args:
        cells: AnnData of counts, with the column ``batch``.
        network: the numbers of latents, hidden units and layers.
        epochs: of training.
        batch_size: of training.
        seed: of the weights and the training.
        same: whether SCVI gets the network and the objective of the recipe, or its own defaults.
    """
    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.model.SCVI(
        cells,
        n_latent=network["latent"],
        n_hidden=network["hidden"],
        n_layers=network["layers"],
        gene_likelihood="nb",
        **(SAME_NETWORK if same else {}),
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightning's about a machine with other settings
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            train_size=1.0,
            batch_size=batch_size,
            plan_kwargs=SAME_PLAN if same else {},
            enable_progress_bar=False,
            default_root_dir=folder,
        )
    record = {"seconds": time.perf_counter() - start}
    return model, record


def estimate_by_itself(model: Any, cells: Any, samples: int) -> float:
    """The average log likelihood of some cells as scvi-tools estimates it."""
    found = model.get_marginal_ll(
        cells, n_mc_samples=samples, n_mc_samples_per_pass=100, return_mean=False
    )
    return float(found.double().mean())
