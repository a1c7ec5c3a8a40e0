"""The settings of reproductions/counts.py."""

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "counts"

SEEDS = (0, 1, 2)
TRAINING_CELLS, TEST_CELLS, GENES, FACTORS = 5000, 1000, 200, 3
NETWORK = {"latent": 10, "hidden": 128, "layers": 1}
EPOCHS = 100
SAMPLES = 1000
# So many test cells are also scored by scvi-tools itself.
OWN_CELLS = 200
# The rows, columns and stored entries of a large matrix, and the steps of training on it.
LARGE = 200_000, 20_000, 10_000_000
LARGE_STEPS = 50
TOLERANCE = 0.1

MODELS = {
    "lowerbound": "the recipe `counts`",
    "same": "SCVI, same network",
    "default": "SCVI, its own defaults",
}
