"""The recipe ``counts``, in Python and by the command."""

from itertools import product

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.errors import DataError
from lowerbound.recipes import find_recipe

SMALL = {"latent": 2, "hidden": 8}


def simulated_counts(rows=60, entries=5):
    torch.manual_seed(0)
    return torch.poisson(4 * torch.rand(rows, entries)).long() + 1


@pytest.mark.parametrize(
    ("likelihood", "zeros"),
    list(product(("negative-binomial", "poisson"), ("none", "inflated", "hurdle"))),
)
def test_each_combination_trains_and_is_loaded(likelihood, zeros, tmp_path):
    data = lb.load_data(simulated_counts(), kind="counts")
    model, objective = lb.recipes.counts(
        data.shape, likelihood=likelihood, zeros=zeros, seed=0, kl_warmup=1.0, **SMALL
    )
    lb.fit(model, objective, data.train, epochs=2, progress=False, directory=tmp_path / "run")
    again = lb.load(tmp_path / "run")
    expected = lb.evaluate(model, lb.ELBO(), data.test)
    assert lb.evaluate(again, lb.ELBO(), data.test).mean == expected.mean
    assert expected.bits_per_dimension > 0
    assert model.needs == ("exposure",)


@pytest.mark.parametrize("dispersion", ["elementwise", "network", "shared"])
def test_each_dispersion_trains_without_an_exposure(dispersion):
    model, objective = lb.recipes.counts((5,), dispersion=dispersion, exposure=False, **SMALL)
    run = lb.fit(model, objective, simulated_counts().float(), epochs=1, progress=False)
    assert np.isfinite(run.history[-1]["train"]["bound"])
    assert model.needs == ()


def test_the_encoder_receives_logarithms():
    model, _ = lb.recipes.counts((5,), **SMALL)
    x = simulated_counts().float()
    expected = model.posterior.part(x.log1p())
    torch.testing.assert_close(model.posterior(x).mean, expected.mean)
    raw = model.posterior.parameters_from(model.posterior.network, x)
    torch.testing.assert_close(model.posterior.from_parameters(raw).mean, expected.mean)


def test_other_data_are_refused_by_row():
    model, objective = lb.recipes.counts((5,), exposure=False, **SMALL)
    x = simulated_counts().float()
    x[3, 1] = 2.5
    with pytest.raises(DataError, match=r"row 3 has the value 2\.5, and a NegativeBinomial"):
        lb.fit(model, objective, x, epochs=1, progress=False)
    assert find_recipe("counts").kind == "counts"


@pytest.mark.usefixtures("without_learning_curves")
def test_the_command_reads_counts_and_gives_the_exposure_for_samples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, *capsys.readouterr()

    x = simulated_counts().numpy()
    np.save("counts.npy", x)
    np.save("real.npy", x + 0.25)
    train = ("train", "counts", "--epochs", "1", "--hidden", "4", "--latent", "2")
    code, out, _ = call(*train, "--data", "counts.npy", "--out", "run")
    assert code == 0
    (flag,) = [line for line in out.splitlines() if " sample " in line]
    suggested = flag.split("--given ")[1].split()[0]
    assert suggested.startswith("exposure=")
    code, out, _ = call("sample", "run", "--count", "3", "--given", suggested, "--out", "s.npy")
    assert code == 0
    samples = np.load("s.npy")
    assert samples.shape == (3, 5)
    code, _, err = call("sample", "run", "--count", "3", "--out", "s.npy")
    assert (code, "--given exposure=1000" in err) == (2, True)
    code, _, err = call(*train, "--data", "real.npy", "--out", "other")
    assert code == 2
    assert "counts are whole numbers from 0 on" in err
