"""`paddock doctor`."""

import typer

from server.cli.options import Config, DataDir, Demo, Device, Host, Port, console, load_settings
from server.cli.terminal import plain


def doctor(
    demo: Demo = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    device: Device = None,
    config: Config = None,
) -> None:
    """Check what a server needs from this machine, and say how to fix what is wrong.

    Exits with status 1 if the server would not start. It changes nothing.
    """
    from server.cli.doctor.examine import examine
    from server.cli.doctor.finding import Verdict

    signs = {Verdict.OK: "[green]✓[/]", Verdict.WARN: "[yellow]![/]", Verdict.FAIL: "[red]✗[/]"}
    settings = load_settings(config, demo=demo, host=host, port=port, data_dir=data_dir, device=device)
    has_failed = False
    for finding in examine(settings):
        has_failed |= finding.verdict is Verdict.FAIL
        console.print(
            f"{signs[finding.verdict]} [bold]{plain(finding.about)}[/]: {plain(finding.sentence)}",
            highlight=False,
            soft_wrap=True,
        )
    if has_failed:
        raise typer.Exit(1)
