"""Likelihoods that score observed entries only."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    Poisson,
)

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    FactorialCategorical,
    MaskedDistribution,
    entrywise_log_prob,
    is_mass,
)
from lowerbound.errors import DataError, ShapeError, UnsupportedError


def test_entries_sum_to_the_whole():
    torch.manual_seed(0)
    x = torch.rand(5, 2, 3).round()
    a = torch.rand(4, 5, 2, 3)
    for p in (
        DiagonalNormal(a, torch.tensor(0.3), 2),
        FactorialBernoulli(a, 2),
        FactorialCategorical(torch.rand(4, 5, 7, 2, 3), 2),
        Independent(Laplace(a, 1.0), 2),
        Independent(Independent(Poisson(a), 1), 1),
    ):
        entries = entrywise_log_prob(p, x)
        assert entries.shape == (4, 5, 2, 3)
        torch.testing.assert_close(entries.sum((-1, -2)), p.log_prob(x))
        every = MaskedDistribution(p, torch.ones(5, 2, 3, dtype=torch.bool))
        torch.testing.assert_close(every.log_prob(x), p.log_prob(x))
        none = MaskedDistribution(p, torch.zeros(5, 2, 3, dtype=torch.bool))
        assert none.log_prob(x).eq(0).all()
        assert is_mass(every) == is_mass(p)


def linear_gaussian(missing):
    """A model with the exact posterior, data with missing entries, and their log evidence."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, bias, x = normal(4, 2), normal(4), normal(30, 4)
    observed = torch.rand(30, 4, generator=generator) >= missing
    observed[:2] = torch.tensor([[True] * 4, [False] * 4])
    noise = 1.0  # whose logarithm float32 has exactly

    class Exact(lb.Conditional):
        needs = ("observed",)

        def forward(self, x, *, observed):
            seen = weight * observed[..., None]  # [B, D, J]
            precision = torch.eye(2, dtype=x.dtype) + seen.mT @ seen / noise**2
            covariance = torch.linalg.inv(precision)
            residual = ((x - bias) * observed)[..., None]
            mean = (covariance @ seen.mT @ residual)[..., 0] / noise**2
            return MultivariateNormal(mean, covariance)

    decoder = lb.mlp(2, 4).double()
    linear = next(m for m in decoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    model = lb.LatentModel(
        lb.StandardNormal(2), Exact(), lb.Masked(lb.Gaussian(decoder, scale=noise))
    ).double()
    covariance = weight @ weight.T + noise**2 * torch.eye(4, dtype=x.dtype)
    evidence = torch.stack([
        MultivariateNormal(bias[seen], covariance[seen][:, seen]).log_prob(row[seen])
        if seen.any()
        else row.new_zeros(())
        for row, seen in zip(x, observed, strict=True)
    ])  # fmt: skip
    data = lb.Examples(x.where(observed, 0.0), fields={"observed": observed})
    return model, data, evidence


def test_with_missing_entries_the_bound_is_the_evidence_of_the_observed_ones():
    """At the exact posterior every weight is the evidence: no tolerance for chance is needed."""
    model, data, evidence = linear_gaussian(0.4)
    for found in (lb.evaluate(model, lb.IWAE(3), data), lb.log_likelihood(model, data, 7)):
        torch.testing.assert_close(found.per_example, evidence, rtol=0, atol=1e-9)


def test_what_is_stored_in_place_of_missing_entries_does_not_matter():
    p = Independent(Gamma(torch.ones(3, 2, requires_grad=True), torch.ones(3, 2)), 1)
    observed = torch.tensor([[True, False], [False, True], [True, True]])
    values = torch.full((3, 2), 1.5)
    expected = MaskedDistribution(p, observed).log_prob(values)
    for stored in (0.0, -1.0, torch.nan, torch.inf):
        x = values.where(observed, stored)
        found = MaskedDistribution(p, observed).log_prob(x)
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found.sum(), p.base_dist.concentration)
        assert gradient.isfinite().all()
        assert gradient[0, 1] == 0


def test_without_the_field_everything_is_scored_and_means_are_complete():
    model, data, _ = linear_gaussian(0.4)
    part = model.likelihood
    z = torch.zeros(2, 30, 2, dtype=torch.float64)
    x, seen = data.values, data.fields["observed"]
    torch.testing.assert_close(part(z).log_prob(x), part.part(z).log_prob(x))
    torch.testing.assert_close(part(z, observed=seen).mean, part(z).mean)
    assert model.reconstruct(data).isfinite().all()
    assert part(z, observed=seen).sample().shape == (2, 30, 4)


def test_missing_values_from_nan_to_imputation():
    torch.manual_seed(0)
    table = np.random.default_rng(0).normal(size=(60, 3))
    table[::3, 0] = np.nan
    data = lb.Examples.of(table, missing="nan")
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Given(lb.Gaussian(lb.mlp(6, 8, 4)), "observed"),
        lb.Masked(lb.Gaussian(lb.mlp(2, 8, 6))),
    ).double()
    assert vae.reconstruct(data).isfinite().all()
    first = lb.evaluate(vae, lb.ELBO(), data, batch_size=60).per_example
    torch.testing.assert_close(lb.evaluate(vae, lb.ELBO(), data, batch_size=7).per_example, first)
    unmasked = lb.LatentModel(vae.prior, vae.posterior, vae.likelihood.part)
    with pytest.raises(DataError, match=r"20 entries are missing.*lb\.Masked"):
        lb.evaluate(unmasked, lb.ELBO(), data)


def test_entries_that_depend_on_each_other_are_refused_by_name():
    part = lb.Masked(lb.FullRankGaussian(lb.mlp(2, 5)))
    observed = torch.ones(5, 2, dtype=torch.bool)
    with pytest.raises(UnsupportedError, match="entries of a TriangularNormal are not independent"):
        part(torch.zeros(3, 5, 2), observed=observed)
    with pytest.raises(ShapeError, match=r"mask of observed entries has the shape \(5, 3\)"):
        lb.Masked(lb.Gaussian(lb.mlp(2, 4)))(
            torch.zeros(3, 5, 2), observed=torch.ones(5, 3, dtype=torch.bool)
        )


def test_a_masked_likelihood_checks_what_was_observed():
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(3, 4)),
        lb.Masked(lb.Bernoulli(lb.mlp(2, 3))),
    )
    x = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.3, 0.3, 0.3]])
    seen = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    data = lb.Examples(x, fields={"observed": seen})
    assert lb.evaluate(vae, lb.ELBO(), data).per_example.isfinite().all()
    seen = seen.clone()
    seen[0, 2] = True
    with pytest.raises(DataError, match="row 0 has grey values"):
        lb.evaluate(vae, lb.ELBO(), lb.Examples(x, fields={"observed": seen}))


def test_a_training_counts_the_missing_entries_of_all_examples():
    table = torch.rand(40, 4)
    table[torch.arange(0, 28, 4), 1] = float("nan")
    vae = lb.LatentModel(lb.StandardNormal(1), lb.Gaussian(lb.mlp(4, 2)), lb.Gaussian(lb.mlp(1, 8)))
    data = lb.Examples.of(table, missing="nan")
    with pytest.raises(DataError, match="data: 7 entries are missing"):
        lb.fit(vae, lb.ELBO(), data, validation=0.5, steps=1, progress=False)
    with pytest.raises(DataError, match="data: 1 entry is missing"):
        lb.evaluate(vae, lb.ELBO(), data.first(4))


def test_the_command_says_that_recipes_need_complete_data(tmp_path, capsys):
    table = np.ones((40, 4), dtype=np.float32)
    table[:28:4, 1] = np.nan
    np.save(tmp_path / "nan.npy", table)
    train = ["train", "aevb-gaussian", "--data", str(tmp_path / "nan.npy")]
    for flags, message in (([], "row 0, entry 1 is nan"), (["--missing", "nan"], "7 entries are")):
        with pytest.raises(SystemExit):
            main([*train, *flags, "--out", str(tmp_path / "run")])
        said = capsys.readouterr().err
        assert message in said
        assert "complete data" in said
        assert "lb.Masked" in said
        assert "--missing nan" not in said
    assert not (tmp_path / "run").exists()
