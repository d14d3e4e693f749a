"""Types commands: each runs as `paddock` does, in a process of its own, but the program is imported once for all.

`python -m tests.support.command_line` reads commands, a JSON object a line, forks, and tells each one's exit status.
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
"""`typed("plan", "--vram", "24", VARIABLE="value")`: runs a command, and waits until it ends by itself."""


class Typist:
    """A process that types commands, one after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.support.command_line"],
            # the width of a terminal is looked at once
            env={**os.environ, "COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `paddock` with these arguments, and wait until it ends by itself."""
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
    """Read commands, and be each of them."""
    import paddock  # noqa: F401
    from server.cli import main as cli
    from server.runtime import server as serve  # noqa: F401 - what the longest of them imports

    for line in sys.stdin:
        command = json.loads(line)
        if not (child := os.fork()):
            break
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    else:
        return
    # one that serves instead of ending is ended
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
