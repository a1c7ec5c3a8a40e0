"""Tables with columns of several types and with missing entries."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.recipes.iwae import Activation, Layers
from lowerbound.recipes.registry import Form, recipe

if TYPE_CHECKING:
    from torch import nn

    from lowerbound.models import TableModel
    from lowerbound.objectives import IWAE

Latent = Annotated[
    int | None,
    Field(
        ge=1,
        description="number of dimensions of z; by default 10, or 20 for 15,000 training rows or "
        "more",
    ),
]
Hidden = Annotated[
    int | None,
    Field(
        ge=1,
        description="units of each hidden layer; by default 128, or 256 for 15,000 training rows "
        "or more",
    ),
]
Samples = Annotated[
    int, Field(ge=1, description="number K of draws of z for each row in the bound")
]
Hide = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="share of the rows in which some entries are hidden in training, so that "
        "the encoder can infer z from any of the columns",
    ),
]
Dropout = Annotated[
    float | None,
    Field(
        ge=0,
        lt=1,
        description="share of the decoder's hidden units that are set to 0 at random in training, "
        "against overfitting to small tables; by default 500 / (500 + number of rows)",
    ),
]

# The number of rows for which half of the decoder's hidden units are dropped.
_ROWS_OF_HALF = 500

# Tables of at most 640 training rows are trained for fewer steps, because their epochs are limited:
# otherwise the intervals of imputations become too narrow.
_TRAINING = {
    "batch_size": 128,
    "steps": 8000,
    "epochs": 1500,
    "schedule": "cosine",
    "warmup_steps": 100,
    "ema": 0.99,
}


@recipe(training=_TRAINING)
def table(
    form: Form,
    *,
    latent: Latent = None,
    hidden: Hidden = None,
    layers: Layers = 2,
    activation: Activation = "silu",
    samples: Samples = 10,
    hide: Hide = 0.5,
    dropout: Dropout = None,
    seed: int | None = None,
) -> "tuple[TableModel, IWAE]":
    """Tables may have columns of any types and missing values: 10 or 20 latents, K = 10.

    The bound is the importance-weighted one on the entries that are observed, of "MIWAE: deep
    generative modelling and imputation of incomplete data sets" (Mattei & Frellsen 2019). Each
    column has a distribution of its own, as in "Handling incomplete heterogeneous data using VAEs"
    (Nazábal et al. 2020). The trained model imputes, scores and samples rows.
    """
    schema = _get_schema(form, "table")
    latent, hidden = _choose_sizes(latent, hidden, form.rows)
    dropout = _choose_dropout(dropout, form.rows)
    posterior, columns = _compose(schema, latent, [hidden] * layers, activation, dropout)
    model = lb.TableModel(lb.StandardNormal(latent), posterior, lb.Masked(columns), hide)
    return model, lb.IWAE(samples)


@recipe(training=_TRAINING)
def missing_not_at_random(
    form: Form,
    *,
    latent: Latent = None,
    hidden: Hidden = None,
    layers: Layers = 2,
    activation: Activation = "silu",
    samples: Samples = 10,
    hide: Hide = 0.5,
    dropout: Dropout = None,
    slope: Annotated[
        float | None,
        Field(
            ge=-8,
            le=8,
            description="by how much the log odds of being missing rise for each standard "
            "deviation of the value, the same for all columns; if it is not given, a slope is "
            "learned for each column",
        ),
    ] = None,
    seed: int | None = None,
) -> "tuple[TableModel, IWAE]":
    """Values of a table may be missing because of their size, so the model includes the mask.

    The bound is that of "not-MIWAE: deep generative modelling with missing not at random data"
    (Ipsen, Mattei & Frellsen 2021) on the observed entries and on the mask, which says what is
    missing. In a column of numbers or ordered categories, the log odds that a value is missing are
    linear in the value as the model sees it, which for positive numbers and counts is the
    logarithm, and the slope is learned. In other columns, each category has log odds of its own.
    Missing values are integrated out in sums, where the paper samples them. All else is as in the
    recipe table.

    Use this recipe only if you have reason to believe that values are missing because of their size
    and not because of other columns. The data cannot tell why values are missing: the slopes follow
    from this assumption and from the model of the values, and the imputations follow from the
    slopes. Use lowerbound sensitivity, and compare trainings with several fixed slopes.
    """
    schema = _get_schema(form, "missing-not-at-random")
    if not any(column.has_missing for column in schema.modelled):
        raise SettingsError(
            "missing-not-at-random: no column of the table has missing values, so there is nothing "
            "to model; use the recipe table"
        )
    latent, hidden = _choose_sizes(latent, hidden, form.rows)
    dropout = _choose_dropout(dropout, form.rows)
    posterior, columns = _compose(schema, latent, [hidden] * layers, activation, dropout)
    likelihood = lb.SelfMasked(columns, slope)
    model = lb.TableModel(lb.StandardNormal(latent), posterior, likelihood, hide)
    return model, lb.IWAE(samples)


def _get_schema(form: Form, name: str) -> Any:
    if form.schema is None:
        raise SettingsError(
            f"{name}: the data are not a table; give lb.load_data a DataFrame, or a .csv or "
            ".parquet file"
        )
    return form.schema


def _choose_sizes(latent: int | None, hidden: int | None, rows: int | None) -> tuple[int, int]:
    """Choose the number of latents and the width of the networks, unless they are given."""
    factor = 2 if rows is not None and rows >= lb.TableModel.LARGE else 1
    return latent or 10 * factor, hidden or 128 * factor


def _choose_dropout(asked: float | None, rows: int | None) -> float:
    """Choose the share of dropped units p, unless it is given: p / (1 - p) falls as 1 / N.

    This ratio is the relative variance of what dropout does to a weight. The variance of a weight
    given N rows falls as 1 / N, see "Variational dropout and the local reparameterization trick"
    (Kingma, Salimans & Welling 2015).
    """
    if asked is not None:
        return asked
    return _ROWS_OF_HALF / (_ROWS_OF_HALF + rows) if rows else 0.0


def _compose(
    schema: Any, latent: int, widths: list[int], activation: str, dropout: float
) -> "tuple[nn.Module, nn.Module]":
    """Compose the posterior given the observed entries, and the likelihood of complete rows."""
    from torch import nn

    inputs = lb.ColumnInputs(schema)
    encoder = lb.mlp(inputs.output_shape, *widths, 2 * latent, activation=activation)
    decoder = lb.mlp(
        latent,
        *widths,
        lb.Columns.count_outputs(schema),
        activation=activation,
        dropout=dropout,
        skip=True,
    )
    posterior = lb.Given(lb.Gaussian(nn.Sequential(inputs, encoder)), "observed")
    return posterior, lb.Columns(decoder, schema)
