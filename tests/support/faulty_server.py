"""The real server with the faulty worker: `python -P -m tests.support.faulty_server serve …`, as `paddock serve …`."""

import os
from functools import partialmethod

from server.cli import main as cli
from server.engine.subprocess.engine import SubprocessEngine

if __name__ == "__main__":
    os.environ["FAULTY_SERVER_PID"] = str(os.getpid())
    SubprocessEngine.__init__ = partialmethod(SubprocessEngine.__init__, worker="tests.support.faulty_worker")  # type: ignore
    cli.main()
