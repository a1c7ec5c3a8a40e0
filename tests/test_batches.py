"""Batches: what a step is given of examples on the device, and of others that are read ahead."""

import numpy as np
import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.errors import DataError
from lowerbound.training.batches import BatchSource

CPU = torch.device("cpu")
COUNT, SIZE, LABELS = 22, 4, 3


class Coded(lb.Conditional):
    """A Gaussian whose network sees a one-hot code of the label beside its input."""

    needs = ("label",)
    accepts = ("depth",)

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = lb.Gaussian(lb.mlp(inputs + LABELS + 1, 6, 2 * outputs))

    def forward(self, *inputs, label, depth=None):
        parts = [nn.functional.one_hot(label, LABELS).float()]
        parts.append(torch.zeros_like(parts[0][:, :1]) if depth is None else depth[:, None])
        leading = [*inputs, parts[0]][0].shape[:-1]
        parts = [part.expand(*leading, -1) for part in parts]
        return self.inner(torch.cat([*inputs, *parts], -1))


def make_model() -> lb.LatentModel:
    torch.manual_seed(0)
    return lb.LatentModel(Coded(0, 2), Coded(SIZE, 2), Coded(2, SIZE))


@pytest.fixture
def examples(tmp_path) -> dict[str, lb.Examples]:
    """The same examples in memory and in a file."""
    values = np.random.default_rng(0).random((COUNT, SIZE), dtype=np.float32)
    np.save(tmp_path / "rows.npy", values)
    mapped = lb.Examples.of(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    labels, fields = torch.arange(COUNT) % LABELS, {"depth": torch.linspace(0.0, 1.0, COUNT)}
    return {
        "memory": lb.Examples(torch.from_numpy(values), labels=labels, fields=fields),
        "file": lb.Examples(mapped.values, labels=labels, fields=fields),
    }


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_batch_decodes_to_its_examples_and_their_fields(place, examples):
    source = BatchSource(examples[place], CPU, ("label",), ("depth", "unknown"))
    assert source.on_device == (place == "memory")
    rows = source.shuffle(5, torch.Generator().manual_seed(1))
    batches = list(source.batches(rows, 5))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 2]
    for own, batch in zip(rows.split(5), batches, strict=True):
        for each in (batch, batch.decode_stored(torch.float64)):
            x, given = each.decode(torch.float64)
            assert x.dtype == torch.float64
            assert torch.equal(x, examples["memory"].values[own].double())
            assert given.keys() == {"label", "depth"}
            assert torch.equal(given["label"], own % LABELS)
            assert torch.equal(given["depth"], examples[place].fields["depth"][own])


def test_what_no_model_needs_is_not_given(examples):
    (batch, *_) = BatchSource(examples["memory"], CPU).batches(torch.arange(COUNT), 5)
    assert batch.decode(torch.float32)[1] == {}


def test_a_field_that_is_lacking_is_named(examples):
    with pytest.raises(DataError, match="'age'"):
        BatchSource(examples["memory"], CPU, ("age",))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("compile", ["never", "always"])
def test_fields_reach_the_model_whether_read_ahead_or_compiled(compile, examples, traced):
    settings = {"epochs": 3, "batch_size": 5, "progress": False, "learning_rate": 0.01}
    settings |= {"validation": 0.2, "compile": compile}
    runs = [lb.fit(make_model(), lb.ELBO(), each, **settings) for each in examples.values()]
    bounds = [[record["train"]["bound"] for record in run.history] for run in runs]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    if compile == "always":
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # one for each training
        run = lb.fit(make_model(), lb.ELBO(), examples["memory"], **settings | {"compile": "never"})
        plain = [record["train"]["bound"] for record in run.history]
        assert bounds[0] == pytest.approx(plain, rel=1e-5)


def test_labels_matter_to_the_gradient(examples):
    """The test above can fail: with other labels the training comes to another bound."""
    settings = {"epochs": 3, "batch_size": 5, "progress": False, "learning_rate": 0.01}
    other = lb.Examples(
        examples["memory"].values,
        labels=(torch.arange(COUNT) + 1) % LABELS,
        fields=examples["memory"].fields,
    )
    bounds = [
        lb.fit(make_model(), lb.ELBO(), data, **settings).history[-1]["train"]["bound"]
        for data in (examples["memory"], other)
    ]
    assert bounds[0] != bounds[1]
