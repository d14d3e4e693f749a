"""One video from a running server, with its progress shown in the terminal."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from paddock import Client, Generation, GenerationFailedError, LoraChoice, UnavailableError, UnreachableError, Update
from server.cli.options import CommandError
from server.cli.text import plain


def generate(
    client: Client, prompt: str, model: str, parameters: Mapping[str, Any], output: Path, console: Console
) -> None:
    """Enqueue, show progress and download to `output`. Ctrl-C cancels the generation.

    Raises CommandError or PaddockError unless the video is at `output` afterwards.
    """
    output = _checked(output)
    (enqueued,) = client.enqueue(prompt, model=model, **parameters)
    try:
        finished = _show_progress(client, enqueued, console)
    except KeyboardInterrupt:
        _give_up(client, enqueued)
        raise
    if finished.status != "succeeded":
        raise GenerationFailedError(finished)
    for warning in finished.warnings:
        console.print(f"[yellow]Warning:[/] {plain(warning)}", soft_wrap=True)
    client.download(finished, output)
    console.print(f"[bold]{plain(str(output))}[/] (seed {finished.seed})", soft_wrap=True)


def _checked(output: Path) -> Path:
    """Return the whole path of the video. Raises CommandError if it cannot be written, before anything is made."""
    try:
        output = output.absolute()
    except FileNotFoundError:
        raise CommandError(f"The current folder has been deleted: write the whole path of {output}.") from None
    if not output.parent.is_dir():
        raise CommandError(f"There is no folder {output.parent} to write {output.name} to.")
    if not os.access(output.parent, os.W_OK):
        raise CommandError(f"The folder {output.parent} cannot be written to: choose another with --output.")
    return output


def parse_lora(option: str) -> LoraChoice:
    """Read NAME or NAME:STRENGTH. Raises CommandError if the strength is not a number; the server checks the rest."""
    name, separator, strength = option.rpartition(":")
    if not separator:
        return {"name": option}
    try:
        return {"name": name, "strength": float(strength)}
    except ValueError:
        raise CommandError(f"--lora {option}: after the colon there must be a strength such as 0.8.") from None


def _show_progress(client: Client, generation: Generation, console: Console) -> Generation:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("queued", total=1.0)
        finished = client.wait(
            generation,
            on_update=lambda update: bar.update(task, completed=update.progress, description=_activity(update)),
        )
        if finished.status == "succeeded":
            bar.update(task, completed=1.0, description="done")
    return finished


def _give_up(client: Client, generation: Generation) -> None:
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
