"""`paddock plan`."""

import json
from typing import Annotated

import typer

from pipelines.core.precision import Accuracy, PrecisionSetting
from server.cli.options import Config, ModelId, console, load_settings, refuse


def _precision(written: str) -> PrecisionSetting:
    try:
        return PrecisionSetting(written)
    except ValueError as error:
        raise typer.BadParameter(f"{written!r} is none of {', '.join(PrecisionSetting)}.") from error


def plan(
    model: ModelId,
    card: Annotated[str | None, typer.Option(help="The GPU by name, such as 'RTX 3060 12GB' [this machine's].")] = None,
    vram: Annotated[
        str | None, typer.Option(help="Memory of the GPU in GB, such as 12 or 12GB [the card's, or this machine's].")
    ] = None,
    ram: Annotated[str | None, typer.Option(help="Host memory in GB [this machine's].")] = None,
    capability: Annotated[
        str | None, typer.Option(help="CUDA compute capability of the GPU [the card's, this machine's, or 8.9].")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="The largest video: WIDTHxHEIGHT, 480p or 720p [the largest that the model makes]."),
    ] = None,
    frames: Annotated[int, typer.Option(help="Length of the longest video in frames.")] = 81,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, for the minutes [the model's default].")] = None,
    precision: Annotated[
        PrecisionSetting | None,
        typer.Option(
            parser=_precision,
            metavar="|".join(PrecisionSetting),
            help="Precision of the weights [as configured, or auto].",
        ),
    ] = None,
    accuracy: Annotated[
        Accuracy | None, typer.Option(help="Residual stream and VAE in fp32 where they fit, or never [as configured].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print a Markdown table of the plans for common GPUs, hosts and sizes.")
    ] = False,
    config: Config = None,
) -> None:
    """Show how a model would be placed in memory, why, and about how long a video takes, here or on another machine.

    Exits with status 1 if the video does not fit, and says what would.
    """
    from pipelines.core.errors import CatalogueError
    from server.cli.alternatives import for_plan
    from server.cli.plan import PlanRefusedError, card_of, describe, find, for_model, in_range, machine, parse_gb, table
    from server.core.catalogue import load_catalogue

    try:
        entry = find(load_catalogue(load_settings(config, precision=precision, accuracy=accuracy)), model)
        if as_table:
            print(table(entry, frames, capability))
            return
        size, steps = in_range(entry, size, frames, steps)
        gpu_gb = None if vram is None else parse_gb("vram", vram)
        host_gb = None if ram is None else parse_gb("ram", ram)
        known = card_of(card, gpu_gb)
        if card is not None and known is not None:
            gpu_gb = gpu_gb or known.memory
            capability = capability or ".".join(map(str, known.capability))
        on = machine(gpu_gb, host_gb, capability)
        chosen = for_model(entry, size, frames, on, card=known, steps=steps)
        if not chosen["fits"]:
            chosen["would_fit"] = for_plan(entry, size, frames, on)
    except (PlanRefusedError, CatalogueError) as error:
        refuse(str(error))
    if as_json:
        print(json.dumps(chosen))
    else:
        describe(chosen, console)
    if not chosen["fits"]:
        raise typer.Exit(1)
