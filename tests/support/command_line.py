"""Runs commands as `paddock` does, each in a forked process, so that the program is imported only once.

`python -m tests.support.command_line` reads one JSON object per line, forks, and prints the exit status of the command.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PATIENCE = 120

Typed = Callable[..., "subprocess.CompletedProcess[str]"]
"""`typed("plan", "--vram", "24", VARIABLE="value")` runs a command and waits until it ends."""


class CommandRunner:
    """A process that runs commands, one after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.support.command_line"],
            # the terminal width is read only once
            env={**os.environ, "COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `paddock` with these arguments and wait until it ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            printed = [Path(folder) / name for name in ("stdout", "stderr")]
            command = {"args": args, "cwd": str(cwd), "env": {**os.environ, **env}, "printed": list(map(str, printed))}
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(args, status, *(path.read_text() for path in printed))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """Read commands and run each in a fork."""
    import paddock  # noqa: F401
    from server.cli import main as cli
    from server.runtime import server as serve  # noqa: F401 - imported by the slowest command

    for line in sys.stdin:
        command = json.loads(line)
        if not (child := os.fork()):
            break
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    else:
        return
    # a command that serves instead of ending is killed
    signal.alarm(PATIENCE)
    os.environ.clear()
    os.environ.update(command["env"])
    os.chdir(command["cwd"])
    for number, name in enumerate((os.devnull, *command["printed"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.argv[1:] = command["args"]
    cli.main()


if __name__ == "__main__":
    main()
