"""``lowerbound recipes`` and ``lowerbound datasets`` list what is available."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the two commands."""
    app.command("recipes")(list_recipes)
    app.command("datasets")(list_datasets)


def list_recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="List the settings of this recipe.", show_default=False
        ),
    ] = None,
) -> None:
    """List the recipes with a summary of each, or the settings of one with their defaults."""
    from rich.console import Console

    from lowerbound.recipes import RECIPES, find_recipe
    from lowerbound.settings import read_settings, write_help

    console = Console(highlight=False, soft_wrap=True)
    if name is None:
        width = max(map(len, RECIPES))
        for recipe in RECIPES.values():
            console.print(f"[bold]{recipe.name:{width}}[/bold]  {recipe.summary}")
        console.print("\nlowerbound recipes RECIPE lists the settings of one.")
        return
    recipe = find_recipe(name)
    console.print(f"[bold]{recipe.name}[/bold]  {recipe.summary}")
    for setting, field in read_settings(recipe.make).model_fields.items():
        flag = f"--{setting.replace('_', '-')}"
        console.print(f"    {flag} [cyan]{field.default}[/cyan]  {write_help(field)}")
    console.print(f"\nlowerbound train {recipe.name} --help shows all flags.")


def list_datasets() -> None:
    """List the named data sets."""
    from rich.console import Console
    from rich.table import Table

    from lowerbound.data.catalogue import CATALOGUE
    from lowerbound.data.formats import PATHS

    table = Table(box=None, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("description")
    for name, entry in CATALOGUE.items():
        table.add_row(name, entry.description)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"\n--data also takes {PATHS}. A named data set is read from $LOWERBOUND_DATA or the "
        "usual caches, and downloaded if it is in none of them."
    )
