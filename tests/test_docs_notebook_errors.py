"""The page of the original notebook's mistakes: its code runs, and prints what the page shows."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "notebook-errors.md"
BLOCKS = re.findall(
    r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(encoding="utf8"), re.DOTALL
)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")


def test_every_block_of_code_is_followed_by_its_output():
    assert len(BLOCKS) == PAGE.read_text(encoding="utf8").count("```python\n") == 14


def test_the_code_prints_what_the_page_shows(capsys):
    """Words agree exactly, and numbers to a fiftieth of their size or two units of the last digit.

    Other machines round in other ways.
    """
    names: dict[str, object] = {}
    for code, shown in BLOCKS:
        exec(code, names)
        printed = capsys.readouterr().out
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        for mine, theirs in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
            last_digit = 10.0 ** -len(theirs.partition(".")[2])
            assert float(mine.replace(",", "")) == pytest.approx(
                float(theirs.replace(",", "")), rel=0.02, abs=2 * last_digit
            )
