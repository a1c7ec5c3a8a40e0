"""Fields, which are given with an example but not scored, in models and evaluations."""

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.errors import DataError, SettingsError

LABELS = 3


class Coded(lb.Conditional):
    """A Gaussian whose network sees a one-hot code of the label beside its input."""

    needs = ("label",)

    def __init__(self, inputs, outputs):
        super().__init__()
        self.inner = lb.Gaussian(lb.mlp(inputs + LABELS, 8, 2 * outputs))

    def forward(self, *inputs, label):
        code = nn.functional.one_hot(label, LABELS).to(torch.get_default_dtype())
        if inputs:
            (given,) = inputs
            code = code.expand(*given.shape[:-1], LABELS)
            return self.inner(torch.cat([given, code], -1))
        return self.inner(code)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return lb.LatentModel(prior=Coded(0, 2), posterior=Coded(4, 2), likelihood=Coded(2, 4))


@pytest.fixture
def cells():
    values = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    return lb.Examples(values, labels=torch.arange(20) % LABELS, fields={"batch": torch.arange(20)})


def test_fields_stay_with_their_examples(cells):
    chosen = cells.subset(torch.tensor([7, 3]))
    assert chosen.given(torch.tensor([0, 1]), ["batch", "label"]).keys() == {"batch", "label"}
    assert chosen.fields["batch"].tolist() == [7, 3]
    train, test = cells.split(0.25, seed=1)
    whole = torch.cat([train.fields["batch"], test.fields["batch"]])
    assert sorted(whole.tolist()) == list(range(20))
    assert lb.Dataset(train, test, "cells").all().fields["batch"].tolist() == list(range(20))


def test_a_field_has_one_entry_for_each_example():
    with pytest.raises(DataError, match="the field 'batch' has the shape"):
        lb.Examples(torch.zeros(3, 2), fields={"batch": torch.zeros(2)})


def test_a_conditional_model_is_evaluated(model, cells):
    one = lb.evaluate(model, lb.ELBO(), cells, batch_size=20)
    parts = lb.evaluate(model, lb.ELBO(), cells, batch_size=3)
    assert torch.allclose(one.per_example, parts.per_example)
    other = lb.Examples(cells.values, labels=(cells.labels + 1) % LABELS)
    assert not torch.allclose(one.per_example, lb.evaluate(model, lb.ELBO(), other).per_example)
    assert lb.log_likelihood(model, cells, samples=50).mean > one.mean - 1
    settings = {"distributions": 5, "chains": 2, "leapfrog_steps": 1}
    assert lb.annealed_log_likelihood(model, cells, **settings).mean
    assert lb.bidirectional(model, 3, label=1, **settings).gap.mean


def test_samples_and_reconstructions_are_of_the_label_asked_for(model, cells):
    with torch.no_grad():
        for parameter in model.likelihood.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    fixed = model.sample(5, seed=0, mean=True, label=1)
    each = model.sample(5, seed=0, mean=True, label=torch.full((5,), 1))
    assert torch.equal(fixed, each)
    assert not torch.equal(fixed, model.sample(5, seed=0, mean=True, label=2))
    own = model.reconstruct(cells)
    assert torch.equal(own, model.reconstruct(cells, label=cells.labels))
    changed = model.reconstruct(cells, label=0)
    same = cells.labels == 0
    assert torch.allclose(own[same], changed[same])
    assert not torch.allclose(own[~same], changed[~same])


def test_what_is_lacking_is_named(model, cells):
    with pytest.raises(DataError, match="needs the field 'label'"):
        lb.evaluate(model, lb.ELBO(), cells.values)
    with pytest.raises(DataError, match="needs the field 'label'"):
        model.sample(5)
    with pytest.raises(DataError, match="does not need 'kind'"):
        model.sample(5, label=1, kind=2)
    with pytest.raises(DataError, match="label has 2 values for 5 examples"):
        model.sample(5, label=[1, 2])


class Scaled(lb.Conditional):
    """A Gaussian whose network sees a number of each example beside its input."""

    needs = ("size",)

    def __init__(self):
        super().__init__()
        self.inner = lb.Gaussian(lb.mlp(3, 8))

    def forward(self, z, *, size):
        return self.inner(torch.cat([z, size[:, None].log().expand(*z.shape[:-1], 1)], -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_come_in_the_floating_type_of_the_model(cells, dtype):
    """As numpy's do, which are double precision whatever the model is."""
    torch.manual_seed(0)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), Scaled()).to(dtype)
    examples = lb.Examples(cells.values, fields={"size": torch.arange(1.0, 21.0).double()})
    lb.fit(vae, lb.ELBO(), examples, epochs=1, progress=False)
    vae.encode(examples)
    assert lb.log_likelihood(vae, examples, 10).mean < 0
    assert vae.reconstruct(examples).dtype == vae.sample(2, size=[3.0, 4]).dtype == dtype


def test_each_use_asks_for_the_fields_of_its_own_parts_only():
    """A label that only the likelihood needs is not asked for by the encoder."""
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), Coded(2, 4))
    values = torch.randn(5, 4)
    assert model.encode(values).shape == (5, 2)
    changed = model.reconstruct(values, label=1)
    labelled = lb.Examples(values, labels=torch.ones(5, dtype=torch.long))
    assert torch.equal(changed, model.reconstruct(labelled))
    with pytest.raises(DataError, match="'label'"):
        model.reconstruct(values)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_the_number_of_samples_is_a_whole_number(count, model):
    with pytest.raises(SettingsError, match=r"sample: count=.* must be a whole number"):
        model.sample(count, label=1)


@pytest.mark.parametrize("labelled", [False, True])
def test_too_many_samples_are_refused_by_their_number(labelled, model):
    if labelled:
        parts = model.prior, lb.mlp(4, 3), model.posterior, lb.Gaussian(lb.mlp(2, 8))
        model = lb.SemiSupervised(*parts, categories=3)
    with pytest.raises(SettingsError, match=r"sample: .* count=1,000,000,000,000,000; draw fewer"):
        model.sample(10**15, label=1)
