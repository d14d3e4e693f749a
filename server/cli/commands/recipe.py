"""`paddock recipe`."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import console, fail


def recipe(file: Annotated[Path, typer.Argument(help="A video that Paddock made.")]) -> None:
    """Print what a video was made of and with, as JSON, from its file alone."""
    from server.recipe.container import read_recipe
    from server.recipe.recipe import RecipeError

    try:
        found = read_recipe(file)
    except RecipeError as error:
        fail(str(error))
    console.print(found.readable(), markup=False, highlight=False, soft_wrap=True)
