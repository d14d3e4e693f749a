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
    vram: Annotated[float | None, typer.Option(help="Memory of the GPU in GB [this machine's].")] = None,
    ram: Annotated[float | None, typer.Option(help="Host memory in GB [this machine's].")] = None,
    capability: Annotated[
        str | None, typer.Option(help="CUDA compute capability of the GPU [this machine's, or 8.9].")
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the largest video.")] = "1280x720",
    frames: Annotated[int, typer.Option(help="Length of the longest video in frames.")] = 81,
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
    """Show how a model would be placed in memory, and why, on this machine or another."""
    from pipelines.core.errors import CatalogueError
    from server.cli.plan import PlanRefusedError, describe, find, for_model, machine, table
    from server.core.catalogue import load_catalogue

    try:
        entry = find(load_catalogue(load_settings(config, precision=precision, accuracy=accuracy)), model)
        if as_table:
            print(table(entry, frames, capability))
            return
        chosen = for_model(entry, size, frames, machine(vram, ram, capability))
    except (PlanRefusedError, CatalogueError) as error:
        refuse(str(error))
    if as_json:
        print(json.dumps(chosen))
    else:
        describe(chosen, console)
