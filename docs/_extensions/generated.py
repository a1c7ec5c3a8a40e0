"""Parts of pages that are generated from the library itself, so that they stay correct.

A page names such a part: ``{generated} commands``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lowerbound.cli.application import app as command
from lowerbound.data.catalogue import CATALOGUE
from lowerbound.data.formats import FORMATS
from lowerbound.recipes import RECIPES, Recipe
from lowerbound.settings import Settings, read_settings, write_help
from lowerbound.training.settings import TrainingSettings

RESULTS = Path(__file__).parents[1] / "results"

Row = tuple[str, ...]


def table(head: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return (
        "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        + "\n"
    )


def commands() -> str:
    """All commands with their arguments and flags, read from the program itself."""
    root = typer.main.get_command(command)
    context = root.make_context("lowerbound", ["selftest"], resilient_parsing=True)
    parts = []
    for name in root.list_commands(context):
        entry = root.get_command(context, name)
        parts.append(_training(entry, context) if name == "train" else _command(entry, context))
    return "\n".join(parts)


def _command(entry: Any, parent: Any, level: int = 2) -> str:
    context = _context(entry, parent)
    panels = _panels(entry, context)
    return "\n".join(
        [_head(entry, context, level), *(_panel(name, rows) for name, rows in panels.items())]
    )


def _training(entry: Any, parent: Any) -> str:
    """The command ``train``; the flags that all recipes share are written once."""
    context = _context(entry, parent)
    recipes = {name: entry.get_command(context, name) for name in entry.list_commands(context)}
    flags = {name: _panels(recipe, _context(recipe, context)) for name, recipe in recipes.items()}
    everywhere = [{row for rows in panels.values() for row in rows} for panels in flags.values()]
    common = set.intersection(*everywhere) - {
        row
        for own in flags.values()
        for name in own
        if name.startswith("Recipe")
        for row in own[name]
    }
    shared = {
        panel: [row for row in rows if row in common]
        for panel, rows in next(iter(flags.values())).items()
    }
    parts = [_command(entry, parent), "### All recipes\n"]
    parts += [_panel(panel, rows) for panel, rows in shared.items() if rows]
    for name, recipe in recipes.items():
        parts.append(_head(recipe, _context(recipe, context), 3))
        parts.append(
            "It takes the flags of all recipes above. Its own arguments and defaults are:\n"
        )
        own = [row for rows in flags[name].values() for row in rows if row not in common]
        parts.append(_panel("", own))
    return "\n".join(parts)


def _context(entry: Any, parent: Any) -> Any:
    return type(parent)(entry, info_name=entry.name, parent=parent)


def _head(entry: Any, context: Any, level: int) -> str:
    usage = " ".join([context.command_path, *entry.collect_usage_pieces(context)])
    text = " ".join((entry.help or "").split())
    return f"{'#' * level} `{context.command_path}`\n\n{text}\n\n```text\n{usage}\n```\n"


def _panels(entry: Any, context: Any) -> dict[str, list[Row]]:
    """The rows of a table for each heading of the help."""
    panels: dict[str, list[Row]] = {}
    for parameter in entry.get_params(context):
        if "--help" in parameter.opts or parameter.get_help_record(context) is None:
            continue
        panels.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(
            _row(parameter, context)
        )
    return panels


def _row(parameter: Any, context: Any) -> Row:
    text = re.sub(r"(?<![\w`-])--[a-z][\w-]*", r"`\g<0>`", parameter.help or "")
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`", "path", text
    flag = " / ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    kind = ""
    if not parameter.is_flag:
        kind = str(parameter.display_type_rich(ctx=context) or "")
        kind = kind.strip("[]<>").replace("|", ", ")
    limits = parameter._get_number_range_help_str()
    default = _shown(parameter)
    more = ", ".join(part for part in (kind.lower(), limits, default) if part)
    return flag, more, text


def _shown(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False:
        return ""
    return f"default `{parameter.default}`"


def _panel(name: str, rows: list[Row]) -> str:
    title = name and f"**{name}**\n\n"
    return f"{title}{table(('', 'value', 'what it is'), rows)}"


def recipes() -> str:
    """All recipes: what each builds, its settings, its usual training, and its results."""
    return "\n".join(_recipe(entry) for entry in RECIPES.values())


def _recipe(entry: Recipe) -> str:
    usual = {
        **entry.training,
        "pixels": entry.pixels,
        "image_size": entry.image_size,
        "kind": entry.kind,
    }
    trained = ", ".join(f"`{name}={value!r}`" for name, value in usual.items() if value is not None)
    function = f"{{func}}`lowerbound.recipes.{entry.make.__name__}`"
    return "\n".join(
        [
            f"## {entry.name}\n\n{entry.summary}\n",
            f"{entry.reached} [Compare all recipes](results/recipes.md).\n",
            f"In Python {function}; usually trained with {trained}.\n",
            _settings(read_settings(entry.make)),
            _published_runs(entry),
        ]
    )


def _published_runs(entry: Recipe) -> str:
    rows = _auto_encoders(entry.name)
    if entry.name == "iwae":
        rows += _importance_weighted()
    if not rows:
        return ""
    return "Its results on the test data, in nats per example:\n\n" + table(
        ("run", "settings", "result", "epochs", "training time", "source"), rows
    )


def _auto_encoders(name: str) -> list[Row]:
    page = (RESULTS / "aevb.md").read_text(encoding="utf8")
    paths = sorted(
        (RESULTS / "aevb").glob("*.json"), key=lambda path: page.find(f"aevb/{path.name}")
    )
    records = [(path, json.loads(path.read_text(encoding="utf8"))) for path in paths]
    rows = []
    for path, record in records:
        if record["recipe"] != name:
            continue
        chosen = {**record["arguments"], **record["training"]}
        settings = ", ".join(
            f"`{key}={value!r}`"
            for key, value in chosen.items()
            if key not in ("epochs", "pictures_every")
        )
        bound = record["test"]["bound"]
        rows.append(
            (
                record["title"],
                settings or "the defaults",
                f"ELBO {bound['mean']:,.1f} ± {bound['standard_error']:.1f}",
                f"{record['epochs']}",
                f"{record['training_seconds'] / 60:.1f} min",
                f"[page](results/aevb.md), [JSON](results/aevb/{path.name})",
            )
        )
    return rows


def _importance_weighted() -> list[Row]:
    rows = []
    for path in sorted(
        (RESULTS / "iwae").glob("*.json"), key=lambda path: json.loads(path.read_text())["k"]
    ):
        record = json.loads(path.read_text(encoding="utf8"))
        rows.append(
            (
                f"{record['cell']}, MNIST",
                f"`samples={record['k']}`, seed {record['seed']}",
                f"log p(x) {-record['test_nll']:.2f} ± {record['standard_error']:.2f} "
                f"({record['test_samples']:,} draws)",
                f"{record['epochs']}",
                f"{record['training_seconds'] / 60:.0f} min",
                f"[page](results/iwae.md), [JSON](results/iwae/{path.name})",
            )
        )
    return rows


def datasets() -> str:
    """The data sets that have a name."""
    rows = [
        (
            f"`{entry.name}`",
            " x ".join(map(str, entry.shape)),
            entry.description,
            "; ".join(entry.files) or "nothing",
            entry.licence,
        )
        for entry in CATALOGUE.values()
    ]
    place = "what to put into `$LOWERBOUND_DATA`"
    return table(("name", "one example", "what it is", place, "licence"), rows)


def formats() -> str:
    """The files and folders that data are read from."""
    return table(("file or folder", "what it is"), [(entry.name, entry.help) for entry in FORMATS])


def training_settings() -> str:
    """The settings of ``lb.fit``, which are flags of ``lowerbound train`` too."""
    return _settings(TrainingSettings)


def _settings(schema: type[Settings]) -> str:
    rows = [
        (f"`{name}`", f"`{field.default}`", write_help(field))
        for name, field in schema.model_fields.items()
    ]
    return table(("setting", "default", "what it is"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "datasets": datasets,
    "formats": formats,
    "recipes": recipes,
    "training-settings": training_settings,
}


class Generated(SphinxDirective):
    """``{generated} NAME`` stands for the Markdown that the function in ``PAGES`` returns."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        text = PAGES[self.arguments[0]]()
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
