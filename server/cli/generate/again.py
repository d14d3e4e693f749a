"""Makes the video of a file again from the recipe that is in it."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from paddock import Client
from pipelines.core.files import sha256_of
from server.cli.generate.videos import generate
from server.cli.options import CommandError
from server.cli.terminal import plain
from server.core.errors import UnavailableError
from server.media.limits import RefusedInputError
from server.media.process import run_child
from server.recipe.again import differences, request_of
from server.recipe.container import read_recipe
from server.recipe.recipe import Recipe, RecipeError

OPTIONS = {
    "input_image": "--image FILE",
    "end_image_url": "--end-image FILE",
    "input_video": "--video FILE",
    "input_audio": "--audio FILE",
    "extend_from": "--extend ID",
}
"""The options for the inputs that a recipe names."""

_DECODERS = {
    "input_image": "server.media.decode_image",
    "end_image_url": "server.media.decode_image",
    "input_video": "server.media.decode_video",
    "input_audio": "server.media.decode_audio",
}
_SECONDS = 180.0


def make_again(
    client: Client,
    source: Path,
    words: Mapping[str, str],
    inputs: Mapping[str, Any],
    outputs: Sequence[Path],
    console: Console,
    *,
    replace: bool = False,
) -> list[Path]:
    """Make the video of a file again, download it, and say whether it has the same bytes or what differs.

    `words` are prompts, for a recipe that leaves them out; `inputs` those that the recipe names by their digests, by
    their parameters. No other file and no address is read. Raises CommandError or PaddockError.
    """
    try:
        recipe = read_recipe(source)
        before = sha256_of(source)
    except RecipeError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{source} cannot be read: {error.strerror}.") from error
    parameters = {**request_of(recipe), **_checked_words(source, recipe, words)}
    _check_inputs(client, source, recipe, inputs)
    prompt = parameters.pop("prompt")
    made = generate(client, prompt, recipe.model, {**parameters, **inputs}, outputs, console, replace=replace)
    for path in made:
        console.print(plain(_compared(source.name, before, recipe, path)), soft_wrap=True, highlight=False)
    return made


def _checked_words(source: Path, recipe: Recipe, words: Mapping[str, str]) -> Mapping[str, str]:
    if recipe.has_prompts and words:
        raise CommandError(f"{source.name} has its prompts: leave yours out.")
    if not recipe.has_prompts and "prompt" not in words:
        raise CommandError(f"The recipe in {source.name} leaves its prompts out: give the prompt as well.")
    return words


def _check_inputs(client: Client, source: Path, recipe: Recipe, inputs: Mapping[str, Any]) -> None:
    """Raise CommandError unless the inputs are those that a recipe names."""
    missing = [f"{OPTIONS[name]} with the digest {recipe.inputs[name]}" for name in recipe.inputs if name not in inputs]
    if missing:
        raise CommandError(f"{source.name} was made with inputs that are not in it: give {' and '.join(missing)}.")
    if extra := [OPTIONS[name] for name in inputs if name not in recipe.inputs]:
        raise CommandError(f"{source.name} was made without {extra[0]}: leave it out.")
    for name, wanted in recipe.inputs.items():
        if (found := _digest(client, name, inputs[name], wanted)) != wanted:
            raise CommandError(
                f"{OPTIONS[name].split()[0]} {inputs[name]} is not what {source.name} was made with: its digest is "
                f"{found}, and not {wanted}."
            )


def _digest(client: Client, name: str, given: Any, wanted: str) -> str:
    """Return the digest of an input as the server computes it."""
    with tempfile.TemporaryDirectory(prefix="input-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "decoded"
        if name == "extend_from":
            return sha256_of(client.download(given, target))
        path = Path(given)
        try:
            if not path.is_file():
                raise RefusedInputError("is not a file")
            if name == "input_video" and sha256_of(path) == wanted:
                # the copy that a server keeps of what it was sent
                return wanted
            found = asyncio.run(run_child(_DECODERS[name], str(path), str(target), seconds=_SECONDS))
        except (RefusedInputError, UnavailableError) as error:
            raise CommandError(f"{OPTIONS[name].split()[0]} {given} {str(error).rstrip('.')}.") from None
        except OSError as error:
            raise CommandError(f"{given} cannot be read: {error.strerror}.") from error
    return str(found["digest"])


def _compared(name: str, before: str, recipe: Recipe, made: Path) -> str:
    """A sentence about a video and the file that it was made from."""
    if sha256_of(made) == before:
        return f"The same bytes as {name}."
    try:
        found = differences(recipe, read_recipe(made))
    except RecipeError:
        return f"Not the same bytes as {name}. The server leaves out recipes, so what differs is not known."
    if not found:
        return f"Not the same bytes as {name}, although nothing known differs: that file may have been changed."
    return f"Not the same bytes as {name}. What differs: {', '.join(found)}."
