"""The command line: one group of all commands.

What is imported here is imported by every command and by `paddock --help`: each command imports its heavy modules only
when it is called.
"""

from typing import Annotated

import typer

from server import __version__
from server.cli.commands.cancel import cancel
from server.cli.commands.demo import demo
from server.cli.commands.doctor import doctor
from server.cli.commands.generate import generate
from server.cli.commands.groups import cluster, key, webhook
from server.cli.commands.loras import loras
from server.cli.commands.plan import plan
from server.cli.commands.pull import pull
from server.cli.commands.recipe import recipe
from server.cli.commands.serve import serve
from server.cli.commands.status import status
from server.cli.options import console
from server.cli.terminal import takes_text

app = typer.Typer(
    help="Serve Wan text-to-video models on your own GPU, behind the API of the hosted endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # brackets in a help text are brackets
    rich_markup_mode=None,
)
for command in (serve, demo, pull, generate, recipe, loras, status, cancel, plan, doctor):
    app.command()(takes_text(command))
app.add_typer(key.app, name="key")
app.add_typer(cluster.app, name="cluster")
app.add_typer(webhook.app, name="webhook")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version and exit.")] = False,
) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()
