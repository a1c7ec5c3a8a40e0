"""What the README promises."""

import re
from pathlib import Path

import pytest

import lowerbound as lb
from lowerbound.recipes import RECIPES

README = Path(__file__).parents[1] / "README.md"


EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf8"), re.DOTALL)


def test_the_first_example_runs(capsys):
    code = EXAMPLES[0]
    assert len(code.strip().splitlines()) <= 12
    names: dict[str, object] = {}
    exec(code.replace("epochs=20", "epochs=2, progress=False"), names)
    assert re.match(r"Estimate\(mean=-?[\d.]+, standard_error=", capsys.readouterr().out)
    assert names["pictures"].shape == (64, 1, 8, 8)
    assert names["embedding"].shape == (180, 10)


def test_the_example_of_a_log_joint_runs(capsys):
    (code,) = EXAMPLES[1:]
    names: dict[str, object] = {}
    exec(code.replace("steps=2000", "steps=300, progress=False"), names)
    assert re.match(
        r"Estimate\(mean=-[\d.]+, standard_error=.*\nLikelihoodEstimate\(mean=-[\d.]+", capsys.readouterr().out
    )
    assert {name: draws.shape for name, draws in names["draws"].items()} == {
        "mean": (1000,),
        "spread": (1000,),
        "standardised": (1000, 8),
    }
    assert (names["draws"]["spread"] > 0).all()


ROOT = README.parent
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = README.parent / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf8")):
        assert (path.parent / target).exists(), target


def test_commands_name_recipes_that_exist():
    for name in re.findall(r"lowerbound train (\w[\w-]*)", README.read_text(encoding="utf8")):
        assert name in RECIPES


def test_the_table_s_names_exist():
    for name in ("StandardNormal", "Gaussian", "Bernoulli", "mlp", "conv", "constant", "flatten_leading", "ELBO", "IWAE",
                 "Renyi", "log_likelihood", "annealed_log_likelihood", "inference_gaps", "latent_health"):  # fmt: skip
        assert f"`{name}" in README.read_text(encoding="utf8")
        assert hasattr(lb, name)
