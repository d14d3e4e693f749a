"""A command of `paddock` in a terminal of its own, which shows what a person would see there."""

import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from pathlib import Path
from threading import Thread

from tests.support.server_process import PATIENCE, eventually

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """What a command has shown so far; its stderr is apart, as where a log is kept."""

    def __init__(self, process: "subprocess.Popen[bytes]", screen: int) -> None:
        self.process = process
        self._shown = b""
        self._reader = Thread(target=self._read, args=(screen,), daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """The text, without colors."""
        return _ANSI.sub("", self._shown.decode(errors="replace")).replace("\r\n", "\n")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it shows a match of a pattern."""
        return eventually(lambda: re.search(pattern, self.text) or self._has_ended())

    def close(self) -> None:
        """End the command, and read what it has shown last."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def _has_ended(self) -> None:
        assert self.process.poll() is None, f"the command ended with {self.process.returncode}:\n{self.text}"

    def _read(self, screen: int) -> None:
        # reading fails once nothing has the terminal open
        with suppress(OSError):
            while part := os.read(screen, 65536):
                self._shown += part
        os.close(screen)


@contextmanager
def terminal(
    *args: str, cwd: Path, log: Path, columns: int = 100, term: str = "xterm-256color", **env: str
) -> Iterator[Terminal]:
    """Run `paddock` with these arguments in a terminal of so many columns, with stderr in the file `log`."""
    screen, its_side = pty.openpty()
    ioctl(its_side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server.cli", *args],
            cwd=cwd,
            env={**environment, "TERM": term, "PYTHONUTF8": "1", **env},
            stdin=its_side,
            stdout=its_side,
            stderr=stderr,
        )
    os.close(its_side)
    shown = Terminal(process, screen)
    try:
        yield shown
    finally:
        shown.close()
