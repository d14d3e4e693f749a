"""The command line: `paddock pull`, `serve`, `demo`, `generate`, `status`, `key`, `doctor`."""

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipelines.core.catalogue import DEFAULT_MODEL, read_catalogue
from pipelines.core.errors import CatalogueError
from pipelines.core.precision import PrecisionSetting
from pipelines.core.request import StepCaching
from server import __version__
from server.cli.client import Client, ClientError, UnreachableError
from server.core.settings import ENV_PREFIX, ConfigFileError, Settings

if TYPE_CHECKING:
    from server.storage.db.api_keys import KeyRing

app = typer.Typer(
    help="Wan2.1 text-to-video on your own GPU, behind the API you already call.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # brackets in a help text are brackets
    rich_markup_mode=None,
)
console = Console()
complaints = Console(stderr=True)

_REFUSED = 2
_INTERRUPTED = 130
_START_SECONDS = 60
_PORTS_TRIED = 100

Url = Annotated[str, typer.Option("--url", envvar="PADDOCK_URL", help="The server's address.")]
ApiKey = Annotated[str | None, typer.Option("--api-key", envvar="PADDOCK_API_KEY", help="A key, if it needs one.")]
LOCAL = "http://127.0.0.1:8000"


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000].")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Queue, records and videos [~/.paddock].")] = None,
    demo: Annotated[
        bool | None, typer.Option("--demo/--no-demo", help="Serve small weights that run anywhere.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda:N or cpu [auto].")] = None,
    config: Annotated[Path | None, typer.Option(help="A settings file; configs/server.toml lists all.")] = None,
) -> None:
    """Serve the API until Ctrl-C."""
    # hardly anything of an import is garbage, and to look for it takes a fifth of the start
    gc.disable()
    from server.runtime.preflight import StartRefusedError
    from server.runtime.server import serve as run

    try:
        run(_settings(config, host=host, port=port, data_dir=data_dir, demo=demo, device=device))
    except StartRefusedError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        # uvicorn has stopped cleanly, and raises it once more
        pass


keys = typer.Typer(help="API keys: make, list, revoke.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys, name="key")
Config = Annotated[Path | None, typer.Option("--config", help="A settings file; configs/server.toml lists all.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The server's data directory [~/.paddock].")]
KeyName = Annotated[str, typer.Argument(help="What it is known by: a person, a machine.")]


@keys.command("add")
def add_key(name: KeyName, data_dir: DataDir = None, config: Config = None) -> None:
    """Make a key and print it, once: only a digest is kept. A running server takes it within a second."""
    with _key_ring(config, data_dir) as ring:
        typer.echo(ring.add(name))
    complaints.print("It is shown only now. Send it as: Authorization: Bearer KEY", highlight=False)


@keys.command("list")
def list_keys(data_dir: DataDir = None, config: Config = None) -> None:
    """Show every key that was made, but not the keys themselves."""
    with _key_ring(config, data_dir) as ring:
        found = ring.all()
    table = Table("name", "made", "revoked")
    for key in found:
        table.add_row(escape(key.name), _moment(key.made_at), _moment(key.revoked_at))
    console.print(table)


@keys.command("revoke")
def revoke_key(name: KeyName, data_dir: DataDir = None, config: Config = None) -> None:
    """Have a key count no more, within a second also on a running server. What it made stays, for nobody to see."""
    with _key_ring(config, data_dir) as ring:
        ring.revoke(name)
        is_last = all(key.revoked_at is not None for key in ring.all())
    if is_last:
        complaints.print("No key is left. The server still needs one: make another with `paddock key add`.")


@contextmanager
def _key_ring(config: Path | None, data_dir: Path | None) -> Iterator["KeyRing"]:
    from server.storage.db.api_keys import KeyNameTakenError, KeyNotFoundError, KeyRing
    from server.storage.db.connection import DatabaseUnusableError, opened

    settings = _settings(config, data_dir=data_dir)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with opened(settings.records) as engine:
            yield KeyRing(engine)
    except KeyNameTakenError as error:
        _refuse(f"There is a key named {error}, or was one. Choose another name.")
    except KeyNotFoundError as error:
        _refuse(f"No key named {error} is good. `paddock key list` shows all.")
    except (DatabaseUnusableError, OSError) as error:
        _refuse(str(error))


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@app.command()
def pull(
    model: Annotated[str, typer.Option(help="The model's id.")] = DEFAULT_MODEL,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A mirror's address (http…), which is sent your hub token if you have one; or a folder with weights, "
            "or with another hub cache, which is checked and left where it is [the hub].",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare checksums also of files that were here: minutes for the large models."),
    ] = False,
    config: Annotated[Path | None, typer.Option(help="A settings file, for its models_dir.")] = None,
) -> None:
    """Fetch a model's weights into the hub cache (HF_HOME), whole and verified.

    Stop it at any time: the next call goes on from there.
    """
    from pipelines.core.errors import PipelineError
    from server.cli.pull import PullRefusedError
    from server.cli.pull import pull as run

    try:
        run(_settings(config), model, source, verify, console)
    except PullRefusedError as error:
        _refuse(str(error))
    except PipelineError as error:
        _fail(error)
    except KeyboardInterrupt:
        complaints.print("Stopped. The same command goes on from here.")
        raise typer.Exit(_INTERRUPTED) from None


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the video.")] = Path("video.mp4"),
    model: Annotated[str, typer.Option(help="The model's id.")] = DEFAULT_MODEL,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the video does not show.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the same video again.")] = None,
    step_cache: Annotated[StepCaching | None, typer.Option(help="Steps that are foretold: none, some, more.")] = None,
    url: Url = LOCAL,
    api_key: ApiKey = None,
) -> None:
    """Make a video on a running server and fetch it. Ctrl-C cancels it."""
    wanted = {
        "model": model,
        "prompt": prompt,
        "width": width,
        "height": height,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "step_cache": step_cache,
    }
    try:
        make_video(Client(url, api_key), {k: v for k, v in wanted.items() if v is not None}, output)
    except ClientError as error:
        _fail(error)


@app.command()
def status(url: Url = LOCAL, api_key: ApiKey = None) -> None:
    """Show what a running server is doing."""
    client = Client(url, api_key)
    try:
        active = client.get("/ai/queue")["generations"]
        models = client.get("/ai/models")["data"]
    except ClientError as error:
        _fail(error)
    for model in models:
        console.print(f"{model['id']}: {model['deployments'][0]['status']}, {model['weights']} weights")
    table = Table("status", "place", "progress", "ETA", "prompt")
    # whole, as it is what cancels
    table.add_column("generation", no_wrap=True, min_width=36)
    for row in reversed(active):
        eta = "" if row["eta_seconds"] is None else f"{row['eta_seconds']:.0f} s"
        place = str(row["queue_position"] or "")
        table.add_row(
            row["status"], place, f"{row['progress']:.0%}", eta, (row["prompt"] or "")[:60], row["generation_id"]
        )
    console.print(table if active else "Nothing is queued or running.")


@app.command()
def plan(
    vram: Annotated[float | None, typer.Option(help="The card's memory in GB [this machine's].")] = None,
    ram: Annotated[float | None, typer.Option(help="Host memory in GB [this machine's].")] = None,
    capability: Annotated[str | None, typer.Option(help="The card's CUDA capability [this machine's, or 8.9].")] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the largest video.")] = "1280x720",
    frames: Annotated[int, typer.Option(help="Its length.")] = 81,
    model: Annotated[str, typer.Option(help="The model's id.")] = DEFAULT_MODEL,
    precision: Annotated[
        PrecisionSetting | None, typer.Option(help="What the weights may be kept in [as set, or auto].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print the plans for all common cards, hosts and sizes, in Markdown.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="A settings file, for its models_dir.")] = None,
) -> None:
    """Show how a model would be laid out in memory, and why, on this machine or any other."""
    from server.cli.plan import PlanRefusedError, describe, find, for_model, machine, table
    from server.core.catalogue import load_catalogue

    try:
        entry = find(load_catalogue(_settings(config, precision=precision)), model)
        if as_table:
            print(table(entry, frames, capability))
            return
        chosen = for_model(entry, size, frames, machine(vram, ram, capability))
    except (PlanRefusedError, CatalogueError) as error:
        _refuse(str(error))
    if as_json:
        print(json.dumps(chosen))
    else:
        describe(chosen, console)


@app.command()
def doctor(
    demo: Annotated[bool | None, typer.Option("--demo/--no-demo", help="For the demo's weights.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000].")] = None,
    data_dir: DataDir = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda:N or cpu [auto].")] = None,
    config: Config = None,
) -> None:
    """Look at what a server needs of this machine, and say what is wrong and how to mend it.

    Ends with status 1 if the server would not start. It changes nothing.
    """
    from server.cli.doctor import Verdict, examine

    colours = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
    signs = {Verdict.OK: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗"}
    settings = _settings(config, demo=demo, host=host, port=port, data_dir=data_dir, device=device)
    is_well = True
    for found in examine(settings):
        is_well &= found.verdict is not Verdict.FAIL
        sign = f"[{colours[found.verdict]}]{signs[found.verdict]}[/]"
        console.print(
            f"{sign} [bold]{escape(found.about)}[/]: {escape(found.sentence)}", highlight=False, soft_wrap=True
        )
    if not is_well:
        raise typer.Exit(1)


@app.command()
def cancel(
    generation: Annotated[str, typer.Argument(help="The generation's id, as `paddock status` shows it.")],
    url: Url = LOCAL,
    api_key: ApiKey = None,
) -> None:
    """Cancel a generation, queued or running."""
    try:
        client = Client(url, api_key)
        client.cancel(generation)
        console.print(client.row(generation)["status"])
    except ClientError as error:
        _fail(error)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the video.")] = False,
    port: Annotated[int, typer.Option(help="Port to listen on; the next free one if it is in use.")] = 8000,
    data_dir: Annotated[Path | None, typer.Option(help="Records and videos [~/.paddock/demo/PORT].")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the video.")] = Path("demo.mp4"),
) -> None:
    """Start a server with small weights, make a video through it, and serve on until Ctrl-C."""
    port = _next_free_port(port)
    url = f"http://127.0.0.1:{port}"
    data_dir = (data_dir or Path(f"~/.paddock/demo/{port}")).expanduser()
    command = [sys.executable, "-P", "-m", "server.cli.main", "serve", "--demo"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data_dir)],
        # the demo is the same whatever is set for a server of one's own
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)},
            f"{ENV_PREFIX}LOG_LEVEL": "warning",
        },
    )
    try:
        _await_server(server, url)
        make_video(
            Client(url),
            {
                "model": DEFAULT_MODEL,
                "prompt": read_catalogue()[DEFAULT_MODEL].api.by_name["prompt"].default,
                "width": 416,
                "height": 240,
                "num_frames": 33,
                "seed": 7,
            },
            output,
        )
        console.print("These were demo weights: they show the server at work, not what Wan can do.")
        if not once:
            where = "" if url == LOCAL else f" --url {url}"
            console.print(f"Make your own at [bold]{url}[/] or with: {_own_name()} generate 'An ox'{where}")
            console.print("Ctrl-C ends it.")
            server.wait()
    except ClientError as error:
        _fail(error)
    except KeyboardInterrupt:
        console.print("Stopping.")
    finally:
        server.terminate()
        server.wait()


def make_video(client: Client, body: dict[str, Any], output: Path) -> None:
    """Enqueue, show progress, fetch; raises ClientError unless the video is at `output` afterwards."""
    if not output.absolute().parent.is_dir():
        raise ClientError(f"There is no folder {output.absolute().parent} to write {output.name} to.")
    generation_id = client.enqueue(body)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("queued", total=1.0)

        def show(update: dict[str, Any]) -> None:
            bar.update(task, completed=update.get("progress"), description=_doing(update))

        try:
            row = client.follow(generation_id, show)
        except KeyboardInterrupt:
            _give_up(client, generation_id)
            raise
        if row["status"] == "succeeded":
            bar.update(task, completed=1.0, description="done")
    if row["status"] != "succeeded":
        raise ClientError(f"The generation {row['status']}: {row['error_message'] or 'by request'}")
    client.download(row["result_url"], output)
    console.print(f"[bold]{output.absolute()}[/] (seed {row['seed']})", soft_wrap=True)


def _give_up(client: Client, generation_id: str) -> None:
    try:
        client.cancel(generation_id)
    except UnreachableError as error:
        raise ClientError(
            f"{error} Generation {generation_id} is not cancelled: the server runs it when it is started again."
        ) from error


def _doing(update: dict[str, Any]) -> str:
    if update["status"] == "unreachable":
        return "waiting for the server to come back"
    if update["status"] == "queued":
        return f"queued, place {update.get('queue_position') or '?'}"
    stage = update.get("stage")
    if stage is None:
        return "loading the model"
    steps = f" {update['step']}/{update['steps']}" if stage == "denoising" else ""
    return f"{stage}{steps}"


def _await_server(server: subprocess.Popen[bytes], url: str) -> None:
    import httpx

    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ClientError(f"The server ended with exit status {server.returncode} before it answered.")
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise ClientError(f"The server did not answer within {_START_SECONDS} s.")


def _next_free_port(first: int) -> int:
    import socket

    for port in range(first, min(first + _PORTS_TRIED, 2**16)):
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise typer.BadParameter(f"no port from {first} on is free", param_hint="--port")


def _own_name() -> str:
    """What to type to run this program from here."""
    return "paddock" if shutil.which("paddock") else os.path.relpath(Path(sys.executable).with_name("paddock"))


def _settings(config: Path | None, **options: Any) -> Settings:
    try:
        return Settings.load(config, **options)
    except ValidationError as error:
        first = error.errors()[0]
        problem = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        _refuse(f"{'.'.join(str(part) for part in first['loc'])}: {problem}")
    except ConfigFileError as error:
        _refuse(str(error))


def _fail(error: Exception) -> NoReturn:
    complaints.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(1) from error


def _refuse(sentence: str) -> NoReturn:
    complaints.print(sentence, soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(_REFUSED)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
