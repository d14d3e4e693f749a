"""Draw the README's terminal picture: `python -m docs.terminal` runs `paddock demo --once` and records its output."""

import os
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from server.cli.demo import demo, next_free_port

PICTURE = Path(__file__).with_name("demo.svg")
COMMAND = "$ make demo ARGS=--once"


def main() -> None:
    """Run the demo in a temporary folder, on a console that records."""
    port = next_free_port(8000)
    assert port is not None
    with tempfile.TemporaryDirectory(prefix="paddock") as folder:
        os.chdir(folder)
        console = Console(record=True, width=96, force_terminal=True)
        demo(True, port, Path(folder) / "data", None, False, console)
        shown = console.export_text(styles=True, clear=True).replace(f"{folder}/", "~/paddock/")
    picture = Console(record=True, width=96, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    picture.print(f"[bold]{COMMAND}[/]")
    picture.print(Text.from_ansi(shown))
    drawn = picture.export_svg(title="paddock", unique_id="demo")
    # Rich refers to fonts on another host; this picture loads nothing
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    main()
