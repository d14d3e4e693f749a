"""`paddock cluster`: run the head of a cluster, join one, and show its hosts."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from server.cli.options import INTERRUPTED, Config, DataDir, console, error_console, fail, load_settings, refuse
from server.cli.terminal import plain, printable, takes_text

if TYPE_CHECKING:
    from server.core.settings.settings import Settings
    from server.engine.ray.node import NodeOptions
    from server.engine.ray.nodes import ClusterHost, ClusterView
    from server.runtime.draining import HostDrain

app = typer.Typer(help="Use the GPUs of several machines.", no_args_is_help=True, rich_markup_mode=None)

DemoDevices = Annotated[
    int | None, typer.Option("--demo-devices", min=1, max=64, help="CPU devices for demo weights instead of GPUs.")
]
NoDevices = Annotated[
    bool, typer.Option("--no-devices", help="Join without devices: for a machine that only runs the server.")
]
Name = Annotated[str | None, typer.Option("--name", help="The host's name in the cluster [its host name].")]
NodePort = Annotated[
    int, typer.Option("--port", min=1024, max=65000, help="The first of the machine's 134 ports.", show_default=True)
]
Ip = Annotated[str | None, typer.Option("--ip", help="This machine's IP address in the cluster [found by Ray].")]
Token = Annotated[
    Path | None, typer.Option("--token-file", help="The cluster's token [cluster-token in the data directory].")
]
Address = Annotated[str, typer.Argument(help="The head's address, host:port.")]
HeadAddress = Annotated[str | None, typer.Argument(help="The head's address, host:port [ray_address].")]
Host = Annotated[str, typer.Argument(help="The host's name, as `paddock cluster status` shows it.")]


@app.command()
@takes_text
def head(
    demo_devices: DemoDevices = None,
    no_devices: NoDevices = False,
    name: Name = None,
    port: NodePort = 6379,
    ip: Ip = None,
    token_file: Token = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Run the head of a cluster on this machine until Ctrl-C, with the machine's GPUs. Start it before the server."""
    settings = _settings(config, data_dir, token_file)
    options = _options(settings, None, demo_devices, no_devices, name, port, ip)
    from server.engine.ray.node import make_token

    try:
        make_token(options.token_file)
    except OSError as error:
        refuse(f"The cluster's token {options.token_file} cannot be written: {error.strerror}.")
    error_console.print(
        f"The cluster's token is in {options.token_file}. Copy the file to each machine that joins.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    _run(options)


@app.command()
@takes_text
def join(
    address: Address,
    demo_devices: DemoDevices = None,
    no_devices: NoDevices = False,
    name: Name = None,
    port: NodePort = 6379,
    ip: Ip = None,
    token_file: Token = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Join a cluster with this machine's GPUs until Ctrl-C. If its head is restarted, join again."""
    settings = _settings(config, data_dir, token_file)
    options = _options(settings, address, demo_devices, no_devices, name, port, ip)
    if not options.token_file.is_file():
        refuse(
            f"The cluster's token {options.token_file} is missing. Copy the file cluster-token from the head's data "
            "directory, or name it with --token-file."
        )
    _run(options)


@app.command()
@takes_text
def status(
    address: HeadAddress = None,
    token_file: Token = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Show the hosts of a cluster that this machine has joined."""
    settings = _settings(config, data_dir, token_file)
    where = address or settings.ray_address or "auto"
    from server.runtime.engines import token_file as token_of

    view = asyncio.run(_look(where, token_of(settings)))
    if view.error is not None:
        fail(view.error)
    table = Table("host", "address", "devices", "in use", "state", "version")
    for host in view.hosts:
        kind = f"{len(host.devices)} {'GPU' if host.kind == 'cuda' else 'demo'}" if host.devices else "none"
        cells = plain(host.address), kind, str(len(host.held)), _state(host), plain(host.version)
        table.add_row(plain(host.name), *cells)
    console.print(table)


@app.command()
@takes_text
def drain(
    host: Host,
    address: HeadAddress = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="How long to wait, in seconds.", show_default=True)
    ] = 900.0,
    token_file: Token = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Take a host out of use without losing work, and wait until its devices are free.

    What it makes is saved at the next step and goes on elsewhere. The host takes nothing more until `paddock cluster
    undrain`, or until it joins again.
    """
    settings = _settings(config, data_dir, token_file)
    _carry_out(settings, address, lambda draining: draining.drain(host, timeout))


@app.command()
@takes_text
def undrain(
    host: Host, address: HeadAddress = None, token_file: Token = None, data_dir: DataDir = None, config: Config = None
) -> None:
    """Let a drained host take work again."""
    settings = _settings(config, data_dir, token_file)
    _carry_out(settings, address, lambda draining: draining.undrain(host))


def _carry_out(settings: "Settings", address: str | None, work: "Callable[[HostDrain], Awaitable[None]]") -> None:
    from server.engine.ray.failures import ClusterError
    from server.engine.ray.nodes import UnknownHostError
    from server.engine.ray.options import bridge_environment
    from server.runtime.draining import HostDrain, NotDrainedError
    from server.runtime.engines import token_file

    def tell(sentence: str) -> None:
        console.print(printable(sentence), highlight=False, markup=False, soft_wrap=True)

    where = address or settings.ray_address or "auto"
    draining = HostDrain(where, bridge_environment(where, token_file(settings)), tell)

    async def run() -> None:
        await work(draining)

    try:
        asyncio.run(run())
    except UnknownHostError as error:
        refuse(str(error))
    except (ClusterError, NotDrainedError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        error_console.print("Stopped waiting. The host's state stays as it is.")
        raise typer.Exit(INTERRUPTED) from None


def _state(host: "ClusterHost") -> str:
    if not host.is_alive:
        return "lost"
    if host.is_draining:
        return "drained" if host.is_drained else "draining"
    return "head" if host.is_head else "joined"


def _settings(config: Path | None, data_dir: Path | None, token_file: Path | None) -> "Settings":
    from server.engine.ray.failures import ClusterError, check_installed

    settings = load_settings(config, data_dir=data_dir, ray_token_file=token_file)
    try:
        check_installed()
    except ClusterError as error:
        refuse(str(error))
    return settings


def _options(
    settings: "Settings",
    address: str | None,
    demo_devices: int | None,
    no_devices: bool,
    name: str | None,
    port: int,
    ip: str | None,
) -> "NodeOptions":
    from server.engine.ray.node import NodeOptions
    from server.engine.ray.nodes import HOST_NAME, DeviceKind
    from server.engine.ray.options import TOKEN_FILE
    from server.runtime.probe import ProbeError, cuda_devices

    if no_devices and demo_devices is not None:
        refuse("--no-devices and --demo-devices exclude each other.")
    name = name or socket.gethostname().partition(".")[0]
    if HOST_NAME.fullmatch(name) is None:
        refuse("--name must be 1 to 63 letters, digits, hyphens, dots and underscores.")
    kind, devices = DeviceKind.CUDA, tuple[int, ...]()
    if demo_devices is not None:
        kind, devices = DeviceKind.DEMO, tuple(range(demo_devices))
    elif not no_devices:
        try:
            devices = tuple(range(len(cuda_devices())))
        except ProbeError as error:
            refuse(str(error))
        if not devices:
            refuse(
                "No CUDA device was found. To join only with the server, add --no-devices; to try a cluster without "
                "GPUs, add --demo-devices 1."
            )
    token = settings.ray_token_file or settings.data_dir / TOKEN_FILE
    return NodeOptions(address, name, port, kind, devices, settings.data_dir, token, settings.loras_dir, ip)


def _run(options: "NodeOptions") -> None:
    """Run a node until a signal, and say when it is in the cluster."""
    from server.core.logging import LogFormat, configure
    from server.engine.ray.failures import ClusterError
    from server.engine.ray.node import NodeProcess

    configure("info", LogFormat.TEXT)
    refused = []

    async def run() -> None:
        checks = set[asyncio.Task[None]]()

        def greet(address: str) -> None:
            if options.head is None:
                console.print(_of_the_head(f"{address}:{options.port}"), highlight=False, soft_wrap=True)
            else:
                checks.add(asyncio.create_task(check(options.head)))

        async def check(head: str) -> None:
            view = await _look(head, options.token_file)
            why = view.error if view.is_permanent else _mismatch(view)
            if why is not None:
                refused.append(why)
                node.stop()
            elif view.error is not None:
                error_console.print(view.error, highlight=False, markup=False, soft_wrap=True)
            else:
                console.print(f"{options.name} has joined the cluster at {head}.", highlight=False)

        node = NodeProcess(options, greet)
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(each, node.stop)
        try:
            await node.run()
        except ClusterError as error:
            refused.append(str(error))

    asyncio.run(run())
    if refused:
        fail(refused[0])


def _of_the_head(address: str) -> str:
    """What to tell of a head that has started at an address."""
    from server.engine.ray.options import is_loopback

    if is_loopback(address):
        return (
            f"The head runs at {address}, where only this machine reaches it. If others are to join, name this "
            "machine's address in their network: paddock cluster head --ip ADDRESS"
        )
    return f"The head runs at {address}. On other machines: paddock cluster join {address}"


def _mismatch(view: "ClusterView") -> str | None:
    from server.engine.protocol import VERSION

    head = next((host for host in view.hosts if host.is_head), None)
    if head is None or head.protocol == VERSION:
        return None
    return (
        f"The head of the cluster runs Paddock {head.version}, which speaks protocol {head.protocol}; this machine "
        f"speaks {VERSION}. Install the same version on both."
    )


async def _look(address: str, token: Path | None) -> "ClusterView":
    from server.engine.ray.options import bridge_environment
    from server.engine.ray.watch import first_view

    return await first_view(address, bridge_environment(address, token))
