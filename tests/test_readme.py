"""What the README promises."""

import re
import sys
from pathlib import Path

import lowerbound as lb

sys.path.insert(0, str(Path(__file__).parent))
from pages import ROOT, blocks, run

README = ROOT / "README.md"
EXAMPLES = [block.text for block in blocks("README.md") if block.language == "python"]


def _quick(code: str) -> str:
    return code.replace("epochs=20", "epochs=2, progress=False").replace(
        "tolerance=0.01", "steps=300, progress=False"
    )


def test_the_examples_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(_quick(code) != code for code in EXAMPLES)
    names = run("README.md", _quick)
    first, verdict, bound, *findings = capsys.readouterr().out.strip().splitlines()
    assert re.match(r"Estimate\(mean=-?[\d.]+, standard_error=", first)
    assert re.match(r"(good|usable|bad): Pareto k-hat", verdict)
    assert re.match(r"bound: -3\d\.\d+ ± [\d.]+ nats; log p\(x\): ", bound)
    assert all("Remedy" in finding for finding in findings)
    assert names["pictures"].shape == (64, 1, 8, 8)
    assert names["embedding"].shape == (180, 10)
    assert {name: draws.shape for name, draws in names["draws"].items()} == {
        "mean": (1000,),
        "spread": (1000,),
        "standardised": (1000, 8),
    }
    assert (names["draws"]["spread"] > 0).all()


def test_the_first_example_is_short():
    assert len(EXAMPLES[0].strip().splitlines()) <= 12


def test_the_table_s_names_exist():
    for name in ("StandardNormal", "Gaussian", "Bernoulli", "mlp", "conv", "constant", "flatten_leading", "ELBO", "IWAE",
                 "Renyi", "log_likelihood", "annealed_log_likelihood", "inference_gaps", "latent_health", "posterior_health"):  # fmt: skip
        assert f"`{name}" in README.read_text(encoding="utf8")
        assert hasattr(lb, name)
