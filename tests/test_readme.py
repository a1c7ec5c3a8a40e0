"""The README's example and its facts."""

import re
import sys
from pathlib import Path

import lowerbound as lb

sys.path.insert(0, str(Path(__file__).parent))
from pages import ROOT, blocks, run

README = ROOT / "README.md"
EXAMPLES = [block.text for block in blocks("README.md") if block.language == "python"]


def _quick(code: str) -> str:
    return code.replace("epochs=20", "epochs=2, progress=False")


def test_the_example_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = EXAMPLES
    assert _quick(code) != code
    assert len(code.strip().splitlines()) <= 12
    names = run("README.md", _quick)
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert re.match(r"Estimate\(bound=-?[\d.]+, standard_error=", line)
    assert names["pictures"].shape == (64, 1, 8, 8)
    assert names["embedding"].shape == (180, 10)


def test_the_first_page_is_short():
    assert len(README.read_text(encoding="utf8").split()) < 554


def test_the_parts_that_compose_exist():
    text = (ROOT / "docs" / "parts.md").read_text(encoding="utf8")
    names = set(re.findall(r"`([A-Za-z_]+)[(`]", text)) & {*lb.__all__}
    assert len(names) >= 20
    for name in ("StandardNormal", "Gaussian", "mlp", "ELBO", "IWAE", "Renyi", "log_likelihood"):
        assert name in names
