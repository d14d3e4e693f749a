"""`paddock demo`."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import Force, console, refuse


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
    force: Force = False,
) -> None:
    """Start a server with small weights, generate a video, and serve until Ctrl-C."""
    from pipelines.core.errors import NoHomeError
    from pipelines.core.home import expanded
    from server.cli.demo import demo as run
    from server.cli.demo import next_free_port

    found = next_free_port(port)
    if found is None:
        raise typer.BadParameter(f"no port from {port} on is free", param_hint="--port")
    try:
        folder = expanded(data_dir or Path(f"~/.paddock/demo/{found}"), "--data-dir")
    except NoHomeError as error:
        refuse(str(error))
    run(once, found, folder, output, force, console)
