"""What the commands share: options, settings, consoles, exit codes and the reporting of errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from server.cli.terminal import printable

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from paddock import Client
    from server.core.settings.settings import Settings

REFUSED = 2
"""The exit status of a command that was given wrong arguments or settings."""

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

LOCAL = "http://127.0.0.1:8000"

console = Console()
error_console = Console(stderr=True)


def default_model() -> str:
    """The model of commands that name none."""
    from pipelines.models.catalogue import DEFAULT_MODEL

    return DEFAULT_MODEL


def complete_model(begun: str) -> list[str]:
    """The ids of the built-in models that begin so, for the shell's completion."""
    from pipelines.models.catalogue import read_catalogue

    return [model for model in read_catalogue() if model.startswith(begun)]


Force = Annotated[bool, typer.Option("--force", "-f", help="Replace a file that exists.")]
ModelId = Annotated[
    str,
    typer.Option(
        "--model",
        default_factory=default_model,
        show_default=False,
        autocompletion=complete_model,
        help="The model's id [Wan2.1 14B].",
    ),
]
Url = Annotated[str, typer.Option("--url", envvar="PADDOCK_URL", help="The server's address.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="PADDOCK_API_KEY", help="An API key, if the server requires one.")
]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on [127.0.0.1].")]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on [8000].")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cuda:N or cpu [auto].")]
Demo = Annotated[bool | None, typer.Option("--demo/--no-demo", help="Use small weights that run anywhere.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of records and videos [~/.paddock].")]
Config = Annotated[Path | None, typer.Option("--config", help="A settings file; configs/server.toml lists all.")]


class CommandError(Exception):
    """A command failed; `str()` is the sentence to print."""


def load_settings(config: Path | None, **options: Any) -> "Settings":
    """The settings of a command: its options, the environment, the file. Exits if they are invalid.

    From then on this process and its children write temporary files to the data directory.
    """
    from pydantic import ValidationError

    from pipelines.core.errors import NoHomeError
    from pipelines.core.processes import leave_deleted_folder
    from server.core.settings.config_file import ConfigFileError
    from server.core.settings.settings import Settings
    from server.runtime.environment import use_data_dir

    try:
        settings = Settings.load(config, **options)
    except ValidationError as error:
        first = error.errors()[0]
        problem, name = first["msg"], ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            problem = "there is no such setting"
        elif first["type"] == "string_pattern_mismatch":
            problem = (
                f"{first['input']!r} is not possible; it must {Settings.model_fields[name.split('.')[0]].description}"
            )
        refuse(f"{name}: {problem}")
    except (ConfigFileError, NoHomeError) as error:
        refuse(str(error))
    leave_deleted_folder()
    use_data_dir(settings.data_dir)
    return settings


@contextmanager
def connected(url: str, api_key: str | None) -> Iterator["Client"]:
    """A client of a running server. Its errors end the command with a sentence."""
    from paddock import APIError, Client, InvalidArgumentError, PaddockError, RetryPolicy, UnreachableError

    # somebody watches: a refusal is shown at once, and Ctrl-C ends the wait for a server that has gone away
    policy = RetryPolicy(attempts=3, backoff=0.2, max_pause=2.0, reconnect_timeout=None)
    try:
        with Client(url, api_key, retry=policy) as client:
            yield client
    except APIError as error:
        fail(f"The server answered {error.status_code}: {error}")
    except InvalidArgumentError as error:
        refuse(str(error))
    except UnreachableError as error:
        fail(f"{str(error).rstrip('.')}. Start a server with `paddock serve`, or try one with `paddock demo`.")
    except (PaddockError, CommandError) as error:
        fail(str(error))


@contextmanager
def opened_records(settings: "Settings") -> Iterator["Engine"]:
    """The database of a server, which need not run. What keeps it from being used ends the command with a sentence."""
    from server.runtime.environment import TEMPORARY
    from server.runtime.preflight import unusable
    from server.storage.db.connection import DatabaseUnusableError, database_of, opened

    try:
        (settings.data_dir / TEMPORARY).mkdir(parents=True, exist_ok=True)
        with opened(database_of(settings)) as engine:
            yield engine
    except DatabaseUnusableError as error:
        refuse(str(error))
    except OSError as error:
        refuse(unusable(settings.data_dir, error))


def fail(sentence: str) -> NoReturn:
    """End the command: it could not do its work."""
    error_console.print(printable(sentence), style="red", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(1)


def refuse(*sentences: str) -> NoReturn:
    """End the command: its arguments or settings are wrong, for each of these reasons."""
    for sentence in sentences:
        error_console.print(printable(sentence), soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(REFUSED)
