"""Videos from a running server, with their progress shown in the terminal."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from paddock import Client, Generation, GenerationFailedError, LoraChoice, UnavailableError, UnreachableError, Update
from server.cli.options import INTERRUPTED, CommandError
from server.cli.terminal import plain

DEMO_SIZE = {"width": 416, "height": 240, "num_frames": 33}
"""A video that the demo's weights make in seconds on a CPU. The page opens with the same one."""

_SIZES = {"width", "height", "aspect_ratio", "resolution"}
_LENGTHS = {"num_frames", "duration"}


def generate(
    client: Client,
    prompt: str,
    model: str,
    parameters: Mapping[str, Any],
    outputs: Sequence[Path],
    console: Console,
    *,
    replace: bool = False,
) -> list[Path]:
    """Enqueue a video for each of `outputs`, show progress, download, and return the files. Ctrl-C cancels them.

    Only with `replace` is a file replaced that another program has written in the meantime: otherwise a video gets the
    next free name. Raises CommandError or PaddockError unless all videos were made; those that were made are kept.
    """
    parameters = _seconds_on_demo(client, model, parameters, console)
    enqueued = client.enqueue(prompt, model=model, num_generations=len(outputs), **parameters)
    try:
        finished = _show_progress(client, enqueued, console)
    except KeyboardInterrupt:
        _give_up(client, enqueued)
        console.print("Cancelled." if len(enqueued) == 1 else "All are cancelled.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    made = [generation for generation in finished if generation.status == "succeeded"]
    for enhanced in dict.fromkeys(generation.enhanced_prompt for generation in made if generation.enhanced_prompt):
        console.print(f"Made of: {plain(enhanced)}", soft_wrap=True)
    if styles := [generation.inspiration_style for generation in made if generation.inspiration_style]:
        console.print(f"Style: {', '.join(dict.fromkeys(styles))}", highlight=False)
    for warning in dict.fromkeys(warning for generation in made for warning in generation.warnings):
        console.print(f"[yellow]Warning:[/] {plain(warning)}", soft_wrap=True)
    paths = []
    for generation, output in zip(made, outputs, strict=False):
        # another program may have written the file meanwhile
        free = (name for name in _names(output, is_one=True) if replace or output.is_dir() or not name.exists())
        path = client.download(generation, next(free))
        console.print(f"[bold]{plain(str(path.absolute()))}[/] (seed {generation.seed})", soft_wrap=True)
        paths.append(path)
    failures = [GenerationFailedError(generation) for generation in finished if generation.status != "succeeded"]
    if failures and len(finished) > 1:
        raise CommandError(f"{len(failures)} of {len(finished)} videos were not made. {failures[0]}")
    if failures:
        raise failures[0]
    return paths


def choose_outputs(named: Path | None, default: Path, videos: int, *, replace: bool) -> list[Path]:
    """The files to write so many videos to: `named`, with numbers if there are several, or free names like `default`.

    Raises CommandError if the folder does not exist or cannot be written to, or if a named file exists and may not be
    replaced.
    """
    chosen = named or default
    try:
        folder = chosen.absolute() if chosen.is_dir() else chosen.absolute().parent
    except FileNotFoundError:
        raise CommandError(f"The current folder has been deleted: write the whole path of {chosen}.") from None
    if not folder.is_dir():
        raise CommandError(f"There is no folder {folder} to write {chosen.name} to.")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"The folder {folder} cannot be written to: choose another with --output.")
    if chosen.is_dir():
        # there each file is named after its generation
        return [chosen] * videos
    names = _names(chosen, is_one=videos == 1)
    if named is None and not replace:
        names = (path for path in names if not path.exists())
    outputs = list(islice(names, videos))
    if (taken := next((path for path in outputs if path.exists()), None)) is not None and not replace:
        raise CommandError(f"{taken} exists. Choose another name with --output, or replace it with --force.")
    return outputs


def _names(path: Path, *, is_one: bool) -> Iterator[Path]:
    """The path of one video, then more like it with numbers; all have a number if there are several videos."""
    if is_one:
        yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2 if is_one else 1))


def show(paths: Sequence[Path], console: Console) -> None:
    """Open files with the desktop's program for them, or say that there is none."""
    for path in paths:
        # without a desktop xdg-open tries a dozen browsers, and names each
        if not _has_desktop():
            console.print(f"{plain(str(path))} was not opened: there is no desktop here.", soft_wrap=True)
            return
        if typer.launch(str(path.absolute())) != 0:
            console.print(f"No program to open {plain(str(path))} was found: --open needs xdg-open.", soft_wrap=True)
            return


def _has_desktop() -> bool:
    is_linux = sys.platform == "linux" and "microsoft" not in platform.release().lower()
    return not is_linux or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _seconds_on_demo(client: Client, model: str, parameters: Mapping[str, Any], console: Console) -> Mapping[str, Any]:
    """The parameters, with a size that takes seconds on a CPU where none is given and the weights are the demo's."""
    size = {} if parameters.keys() & _SIZES else {name: DEMO_SIZE[name] for name in ("width", "height")}
    length = {} if parameters.keys() & _LENGTHS else {"num_frames": DEMO_SIZE["num_frames"]}
    added = size | length
    if not added or not any(each.id == model and each.weights == "demo" for each in client.models()):
        return parameters
    stated = ", ".join(f"{name} {value}" for name, value in added.items())
    takes = ", which takes seconds. Options choose another size" if size and length else ""
    console.print(f"The demo's weights: {stated}{takes}.", highlight=False)
    return {**parameters, **added}


def parse_lora(option: str) -> LoraChoice:
    """Read NAME or NAME:STRENGTH. Raises CommandError if the strength is not a number; the server checks the rest."""
    name, separator, strength = option.rpartition(":")
    if not separator:
        return {"name": option}
    try:
        return {"name": name, "strength": float(strength)}
    except ValueError:
        raise CommandError(f"--lora {option}: after the colon there must be a strength such as 0.8.") from None


def _show_progress(client: Client, generations: Sequence[Generation], console: Console) -> list[Generation]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        tasks = {generation.id: bar.add_task("queued", total=1.0) for generation in generations}

        def on_update(update: Update) -> None:
            bar.update(tasks[update.generation_id], completed=update.progress, description=_activity(update))
            if update.generation is not None and update.generation.status == "succeeded":
                bar.update(tasks[update.generation_id], completed=1.0, description="done")

        return client.wait_all(generations, on_update=on_update)


def _give_up(client: Client, generations: Sequence[Generation]) -> None:
    for generation in generations:
        try:
            client.cancel(generation)
        except (UnreachableError, UnavailableError) as error:
            raise CommandError(
                f"{error} Generation {generation.id} is not cancelled: the server runs it when it starts again."
            ) from error


def _activity(update: Update) -> str:
    """What happens now, for the progress bar."""
    if not update.is_connected:
        return "waiting for the server to come back"
    if update.status == "queued":
        return f"queued, position {update.queue_position or '?'}"
    if update.stage is None:
        return "loading the model"
    steps = f" {update.step}/{update.steps}" if update.stage == "denoising" else ""
    return f"{update.stage}{steps}"
