"""`paddock pull`."""

import sys
from typing import Annotated

import typer

from server.cli.options import INTERRUPTED, Config, ModelId, console, error_console, fail, load_settings, refuse


def pull(
    model: ModelId,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A mirror's address (http…), which receives your Hugging Face token if you have one; or a folder with "
            "weights, or with another Hugging Face cache, which is checked and left in place [the hub].",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Also compare the checksums of files that are here. Takes minutes for the large models."
        ),
    ] = False,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="You have read the licence of guarded weights, and agree to it."),
    ] = False,
    config: Config = None,
) -> None:
    """Download a model's weights into the Hugging Face cache (HF_HOME) and verify them.

    You can stop it at any time: the next call continues from there.
    """
    from pipelines.core.errors import PipelineError
    from server.cli.pull import PullRefusedError
    from server.cli.pull import pull as run

    def agrees(question: str) -> bool:
        return accept_licence or (console.is_terminal and sys.stdin.isatty() and typer.confirm(question))

    try:
        run(load_settings(config), model, source, verify, console, agrees)
    except PullRefusedError as error:
        refuse(str(error))
    except PipelineError as error:
        fail(str(error))
    except KeyboardInterrupt:
        error_console.print("Stopped. Run the same command again to continue.")
        raise typer.Exit(INTERRUPTED) from None
