"""Tables with columns of several types and with missing entries."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.recipes.registry import Form, recipe

if TYPE_CHECKING:
    from lowerbound.models import TableModel
    from lowerbound.objectives import IWAE


@recipe(
    training={
        "batch_size": 128,
        "steps": 8000,
        "learning_rate": 0.001,
        "schedule": "cosine",
        "warmup_steps": 100,
        "ema": 0.99,
    },
)
def table(
    form: Form,
    *,
    latent: Annotated[int, Field(ge=1, description="number of dimensions of z")] = 10,
    hidden: Annotated[int, Field(ge=1, description="units of each hidden layer")] = 128,
    layers: Annotated[int, Field(ge=1, description="number of hidden layers of each network")] = 2,
    activation: Annotated[
        str, Field(description="activation between layers, such as tanh, relu, gelu or silu")
    ] = "silu",
    samples: Annotated[
        int, Field(ge=1, description="number K of draws of z for each row in the bound")
    ] = 10,
    hide: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of the rows of which some entries are hidden in training, so that "
            "the encoder can infer z from any of the columns",
        ),
    ] = 0.5,
    seed: int | None = None,
) -> "tuple[TableModel, IWAE]":
    """Tables with columns of any types and missing values: 10 latents, K = 10.

    The bound is the importance-weighted one on the entries that are observed, of "MIWAE: deep
    generative modelling and imputation of incomplete data sets" (Mattei & Frellsen 2019). Each
    column has a distribution of its own, as in "Handling incomplete heterogeneous data using VAEs"
    (Nazábal et al. 2020). The trained model imputes, scores and samples rows.
    """
    schema: Any = form.schema
    if schema is None:
        raise SettingsError(
            "table: the data are not a table; give lb.load_data a DataFrame, or a .csv or .parquet "
            "file"
        )
    from torch import nn

    inputs, widths = lb.ColumnInputs(schema), [hidden] * layers
    encoder = lb.mlp(inputs.output_shape, *widths, 2 * latent, activation=activation)
    decoder = lb.mlp(latent, *widths, lb.Columns.count_outputs(schema), activation=activation)
    model = lb.TableModel(
        lb.StandardNormal(latent),
        lb.Given(lb.Gaussian(nn.Sequential(inputs, encoder)), "observed"),
        lb.Masked(lb.Columns(decoder, schema)),
        hide,
    )
    return model, lb.IWAE(samples)
