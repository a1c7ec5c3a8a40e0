"""The zoo's page says only what its results say, and pythae's models are converted exactly
(reproductions/zoo.py)."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lowerbound as lb
from lowerbound.recipes import find_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "reproductions"))

import zoo
import zoo_cells
import zoo_page
import zoo_pythae

MNIST = {"epochs": 3, "examples": 60_000, "test_examples": 1000, "test_samples": 5000}
RECIPES = {name: cell for name, cell in zoo_cells.CELLS.items() if cell.library == "lowerbound"}


def write_result(folder, name, seed, **values):
    result = {
        **MNIST,
        "cell": name,
        "seed": seed,
        "settings": dict(zoo_cells.CELLS[name].arguments),
        "standard_error": 0.8,
        "rate": 25.0,
        "units": 50,
        "active_units": 20,
        "share_doubtful": 0.1,
        "cpu_seconds": 6.0,
        "machine": "2 cores",
        **values,
    }
    path = folder / f"{name}-epochs{result['epochs']}-seed{seed}.json"
    path.write_text(json.dumps(result), encoding="utf8")


def write_page(tmp_path, **cells):
    """Write a page of results whose NLLs are given by cell, one for each seed."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for name, values in cells.items():
        for seed, nll in enumerate(values):
            write_result(folder, name.replace("_", "-"), seed, test_nll=nll)
    return zoo_page.write_page(folder).read_text(encoding="utf8")


def find_row(page, start):
    return next(line for line in page.splitlines() if line.startswith(f"| {start}"))


def test_there_is_no_page_without_results(tmp_path):
    (tmp_path / "zoo").mkdir()
    assert zoo_page.write_page(tmp_path / "zoo") is None
    assert not (tmp_path / "zoo.md").exists()


def test_only_cells_that_were_run_are_on_the_page(tmp_path):
    page = write_page(tmp_path, vae=[90.0, 90.2, 90.4])
    assert [line for line in page.splitlines() if line.startswith(("| `", "| pythae"))] == [
        "| `vae` | standard Gaussian prior | 3 | 90.20 ± 0.20 | 25.0 ± 0.0 | 20, 20, 20 of 50 | "
        "10% | 2.0 |"
    ]
    assert "No target can be checked yet" in page
    assert "Sprites" not in page


def test_an_order_holds_if_the_gap_is_more_than_the_larger_spread(tmp_path):
    page = write_page(
        tmp_path,
        vae=[90.0, 90.2, 90.4],
        iwae=[89.9, 90.1, 90.3],
        vampprior=[89.0, 89.1, 89.2],
    )
    assert find_row(page, "`vampprior` below `vae`").endswith(
        "| -1.10 nats, spread 0.20 | below, by more than the spread | holds |"
    )
    assert find_row(page, "`iwae` below `vae`").endswith("| **does not hold** |")


def test_a_pair_holds_if_ours_is_at_or_below_theirs(tmp_path):
    page = write_page(
        tmp_path,
        vae=[90.0, 90.2, 90.4],
        pythae_vae=[90.0, 90.2, 90.4],
        iaf=[90.3, 90.3, 90.3],
        pythae_iaf=[90.2, 90.2, 90.2],
    )
    assert find_row(page, "`vae` compared with pythae's VAE").endswith("| at or below | holds |")
    assert find_row(page, "`iaf` compared").endswith("| at or below | **does not hold** |")


def test_a_target_waits_for_all_seeds(tmp_path):
    page = write_page(tmp_path, vae=[90.0, 90.2, 90.4], iwae=[80.0, 80.1])
    assert "below `vae`" not in page
    assert "| 2 | 80.05 ± 0.07 |" in page


def test_other_numbers_of_epochs_are_not_compared(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    for seed in range(3):
        write_result(folder, "vae", seed, test_nll=90.0)
        write_result(folder, "iwae", seed, test_nll=80.0, epochs=7)
    page = zoo_page.write_page(folder).read_text(encoding="utf8")
    assert page.index("MNIST, 7 epochs") < page.index("MNIST, 3 epochs")
    assert "below `vae`" not in page


def test_results_of_other_settings_are_refused(tmp_path):
    (tmp_path / "zoo").mkdir()
    write_result(tmp_path / "zoo", "iwae", 0, test_nll=90.0, settings={"samples": 50})
    with pytest.raises(SystemExit, match="was made with other settings"):
        zoo_page.write_page(tmp_path / "zoo")


def test_sprites_are_compared_by_mig(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    for name, mig in (("beta-vae", 0.1), ("beta-tc", 0.2), ("factor", 0.05)):
        for seed in range(3):
            scores = {"mig": mig, "sap": 0.1, "disentanglement": 0.3, "factor_vae": 0.5}
            write_result(folder, name, seed, **scores)
    page = zoo_page.write_page(folder).read_text(encoding="utf8")
    assert find_row(page, "MIG of `beta-tc`").endswith("| above | holds |")
    assert find_row(page, "MIG of `factor`").endswith("| above | **does not hold** |")
    assert "## MNIST" not in page


def test_targets_name_cells_that_exist():
    pairs = [*zoo_page.ORDERS, *zoo_page.PAIRS, *zoo_page.SEPARATIONS]
    assert {name for pair in pairs for name in pair} <= set(zoo_cells.CELLS)
    assert all(zoo_cells.CELLS[theirs].library == "pythae" for _, theirs in zoo_page.PAIRS)


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].data == "mnist"])
def test_all_models_have_the_same_networks(name):
    model, objective = find_recipe(RECIPES[name].recipe).build((1, 28, 28), RECIPES[name].arguments)
    layers = [
        (layer.in_features, layer.out_features)
        for layer in model.likelihood.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    assert [outputs for _, outputs in layers] == [200, 200, 784]
    assert objective.samples == RECIPES[name].arguments.get("samples", 1)


def test_a_cell_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    commands = []

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=len(commands) % 2)

    monkeypatch.setattr(zoo.subprocess, "run", run)
    monkeypatch.setattr(zoo, "RESULTS", tmp_path / "zoo")
    arguments = ["--only", "vae", "iwae", "--seeds", "0", "1", "--epochs", "3"]
    monkeypatch.setattr(sys, "argv", ["zoo.py", *arguments])
    (tmp_path / "zoo").mkdir()
    write_result(tmp_path / "zoo", "vae", 1, test_nll=90.0)
    assert zoo.main() == 1
    assert [command[2:4] for command in commands] == [
        ["vae", "--seed=0"],
        ["iwae", "--seed=0"],
        ["iwae", "--seed=1"],
    ]
    told = capsys.readouterr().err
    assert "vae, seed 0: ended with exit code 1" in told
    assert "vae-epochs3-seed1.json exists already" in told


def test_a_missing_environment_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "RESULTS", tmp_path / "zoo")
    missing = tmp_path / "python"
    arguments = ["--only", "pythae-vae", "--seeds", "0", "--pythae", str(missing)]
    monkeypatch.setattr(sys, "argv", ["zoo.py", *arguments])
    assert zoo.main() == 1
    told = capsys.readouterr().err
    assert f"{missing} does not exist; run `make benchmark` first" in told
    assert "no page was written" in told


class Affine(torch.nn.Module):
    """A flow as pythae's, whose density has a closed form."""

    def inverse(self, y):
        return SimpleNamespace(out=3 * y + 1, log_abs_det_jac=torch.full((len(y),), 2 * 1.0986123))


def test_draws_through_a_flow_have_the_right_density():
    gaussian = lb.Gaussian(lb.mlp(4, 4))
    q = zoo_pythae.FlowPosterior(gaussian, Affine())(torch.randn(5, 4))
    z, log_q = q.rsample_and_log_prob(torch.Size([7]))
    assert z.shape == (7, 5, 2)
    base = q.base
    exact = torch.distributions.Normal(3 * base.mean + 1, 3 * base.variance.sqrt())
    torch.testing.assert_close(log_q, exact.log_prob(z).sum(-1), rtol=1e-4, atol=1e-4)


def test_a_converted_model_has_the_bound_of_the_original():
    encoder, decoder = lb.mlp((1, 2, 2), 6), lb.mlp(3, (1, 2, 2))
    theirs = SimpleNamespace(
        encoder=SimpleNamespace(network=encoder),
        decoder=SimpleNamespace(network=decoder),
        latent_dim=3,
        pseudo_inputs=torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Hardtanh(0.0, 1.0)),
        idle_input=torch.eye(2),
        model_config=SimpleNamespace(input_dim=(1, 2, 2)),
    )
    model = zoo_pythae.convert(theirs)
    x = torch.tensor([0.0, 1, 1, 0]).reshape(1, 1, 2, 2)
    draw = model.draw(x, samples=5)
    z = draw.z[:, 0]
    loc, log_variance = encoder(x).chunk(2, -1)
    log_q = torch.distributions.Normal(loc, (log_variance / 2).exp()).log_prob(z).sum(-1)
    at = theirs.pseudo_inputs(theirs.idle_input).reshape(2, 1, 2, 2)
    means, log_variances = encoder(at).chunk(2, -1)
    of_each = torch.distributions.Normal(means, (log_variances / 2).exp()).log_prob(z[:, None])
    log_prior = of_each.sum(-1).logsumexp(1) - torch.tensor(2.0).log()
    chance = decoder(z).sigmoid()
    log_likelihood = (
        -torch.nn.functional.binary_cross_entropy(chance, x.expand_as(chance), reduction="none")
        .flatten(1)
        .sum(1)
    )
    expected = log_likelihood + log_prior - log_q
    torch.testing.assert_close(draw.log_w[:, 0].float(), expected, rtol=1e-4, atol=1e-4)


def test_active_units_are_those_whose_mean_varies():
    network = lb.mlp(2, 6)
    linear = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[0, 0], linear.weight[1, 1] = 1.0, 0.05
    model = lb.LatentModel(lb.StandardNormal(3), lb.Gaussian(network), lb.Gaussian(lb.mlp(3, 4)))
    units = zoo_cells.count_units(model, lb.Examples(torch.randn(500, 2)))
    assert units == {"units": 3, "active_units": 1}


def test_the_processor_time_is_that_of_trainings_that_were_not_interrupted(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    for seed, values in enumerate(({"cpu_seconds": 4.5}, {"cpu_seconds": 7.5}, {})):
        write_result(folder, "vae", seed, test_nll=90.0, **values)
        (path,) = folder.glob(f"vae-*-seed{seed}.json")
        result = json.loads(path.read_text(encoding="utf8"))
        if not values:
            del result["cpu_seconds"]
        path.write_text(json.dumps(result), encoding="utf8")
    page = zoo_page.write_page(folder).read_text(encoding="utf8")
    assert find_row(page, "`vae`").endswith("| 2.0 |")
