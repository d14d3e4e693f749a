"""`paddock serve`."""

import gc
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.commands.groups.key import print_invitation
from server.cli.options import Config, DataDir, Demo, Device, Host, Port, load_settings, refuse

if TYPE_CHECKING:
    from server.runtime.lan import Invitation

Lan = Annotated[
    bool, typer.Option("--lan", help="Share it on the local network: make a key, and show the address with a QR code.")
]


def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    demo: Demo = None,
    device: Device = None,
    config: Config = None,
    lan: Lan = False,
) -> None:
    """Serve the API until Ctrl-C."""
    # imports leave hardly any garbage, and looking for it takes a fifth of the start
    gc.disable()
    # before the imports: SQLite asks for its temporary folder only once
    settings = load_settings(config, host=host, port=port, data_dir=data_dir, demo=demo, device=device)
    from server.runtime.lan import for_the_network
    from server.runtime.preflight import StartRefusedError
    from server.runtime.server import serve as run

    if lan and host is None:
        settings = for_the_network(settings)
    try:
        run(settings, _show if lan else None)
    except StartRefusedError as error:
        refuse(*error.args)
    except KeyboardInterrupt:
        # uvicorn has stopped cleanly, and raises it again
        pass


def _show(invitation: "Invitation") -> None:
    """Tell how others reach the server. Its key is shown on a terminal only: elsewhere it could stay in a log."""
    if sys.stdout is not None and sys.stdout.isatty():
        print_invitation(invitation)
    else:
        print(
            f"Shared on the local network: {invitation.urls[0]}/",
            "The key is shown on a terminal only, not where a log may keep it: run `paddock key lan` in one.",
            sep="\n",
            flush=True,
        )
