"""Draws the picture in the README: `python docs/terminal.py` runs `paddock demo --once` and keeps what it shows."""

import os
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from server.cli import main as cli

PICTURE = Path(__file__).with_name("demo.svg")
COMMAND = "$ make demo ARGS=--once"


def main() -> None:
    """Run the demo in a folder of its own, on a console that records."""
    with tempfile.TemporaryDirectory(prefix="paddock") as folder:
        os.chdir(folder)
        cli.console = console = Console(record=True, width=96, force_terminal=True)
        cli.demo(once=True, port=8000, data_dir=Path(folder) / "data", output=Path("demo.mp4"))
        shown = console.export_text(styles=True, clear=True).replace(f"{folder}/", "~/paddock/")
    picture = Console(record=True, width=96, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    picture.print(f"[bold]{COMMAND}[/]")
    picture.print(Text.from_ansi(shown))
    drawn = picture.export_svg(title="paddock", unique_id="demo")
    # Rich names fonts on somebody's host: a picture of ours asks nobody for anything
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    main()
