"""A table with a column of each type, for several test files."""

import numpy as np
import pandas as pd

ROWS = 200


def make_frame(rows: int = ROWS) -> pd.DataFrame:
    """A table with a column of each type."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": random.normal(170, 9, rows),
            "income": np.exp(random.normal(9, 1.2, rows)),
            "gift": np.where(random.random(rows) < 0.6, 0.0, np.exp(random.normal(3, 1, rows))),
            "share": random.beta(2, 3, rows),
            "visits": random.negative_binomial(2, 0.05, rows),
            "answer": random.integers(0, 5, rows),
            "job": random.choice(["clerk", "cook", "nurse"], rows),
            "smokes": random.random(rows) < 0.3,
            "born": pd.Timestamp("1980-01-01")
            + pd.to_timedelta(random.integers(0, 9000, rows), unit="D"),
            "year": random.integers(1990, 2020, rows),
            "id": np.arange(rows),
            "name": [f"person {number}" for number in range(rows)],
            "country": "here",
        },
        index=[f"row {number}" for number in range(rows)],
    )


TYPES = {
    "height": "real",
    "income": "positive",
    "gift": "positive",
    "share": "proportion",
    "visits": "count",
    "answer": "ordinal",
    "job": "categorical",
    "smokes": "boolean",
    "born": "time",
    "year": "real",
    "id": "identifier",
    "name": "identifier",
    "country": "constant",
}
