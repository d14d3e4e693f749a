"""`paddock demo`."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import console


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the video.")] = False,
    port: Annotated[int, typer.Option(help="Port to listen on; if it is in use, the next free one.")] = 8000,
    data_dir: Annotated[Path | None, typer.Option(help="Records and videos [~/.paddock/demo/PORT].")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_default=False,
            help="Where to write the video [demo.mp4, or the next name that is free].",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that exists.")] = False,
) -> None:
    """Start a server with small weights, generate a video, and serve until Ctrl-C."""
    from server.cli.demo import demo as run
    from server.cli.demo import next_free_port

    found = next_free_port(port)
    if found is None:
        raise typer.BadParameter(f"no port from {port} on is free", param_hint="--port")
    run(once, found, (data_dir or Path(f"~/.paddock/demo/{found}")).expanduser(), output, force, console)
