"""Arguments of Python that messages recommend are written as options of the command."""

import ast
import re
import shlex
from functools import cache
from typing import Any

from lowerbound.data.load import load_data
from lowerbound.settings import read_settings
from lowerbound.training.settings import TrainingSettings

# A dictionary, a list, text, a number or True; or no value at all, as in "use more samples=".
_VALUE = r"\{[^{}]*\}|\[[^\[\]]*\]|'[^']*'|\"[^\"]*\"|True\b|-?\d[\d.e-]*(?<![.-])|(?=[\s;,.]|$)"


def write_as_options(message: str) -> str:
    """Write the settings in a message, such as ``unknown='other'``, as options of the command.

    Example:
        >>> write_as_options("use columns={'visits': 'real'} and missing_values=['n/a', -999]")
        'use --columns visits=real and --missing-values n/a,-999'
        >>> write_as_options("give more samples= or standardize=True")
        'give more --samples or --standardize'
    """
    return _make_pattern().sub(_write_match, message)


@cache
def _make_pattern() -> re.Pattern[str]:
    fields = {*read_settings(load_data).model_fields, *TrainingSettings.model_fields}
    names = "|".join(sorted({*fields, "samples", "draws"}))
    # After a colon, a setting says where a fault is, such as in a file; paths stay as they are.
    return re.compile(rf"(?<![\w.'\"/\\-])(?<!: )({names})=({_VALUE})(?![\w/\\]| in Python)")


def _write_match(match: re.Match[str]) -> str:
    before = match.string[: match.start()]
    if re.search(r"\w\([^()]*$", before):  # an argument of a call of Python
        return match[0]
    flag = f"--{match[1].replace('_', '-')}"
    if match[2] in ("", "True"):
        return flag
    try:
        value = ast.literal_eval(match[2])
    except (ValueError, SyntaxError):  # no value of Python
        return match[0]
    parts = _list_parts(value)
    if any("," in part for part in parts):  # an option would take it for two
        return match[0]
    return f"{flag} {shlex.quote(','.join(parts))}"


def _list_parts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}={each}" for name, each in value.items()]
    return [str(each) for each in (value if isinstance(value, list) else [value])]
