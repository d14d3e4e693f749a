"""One template process for all servers and engines of a test process, so that their workers import nothing."""

import atexit
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from server.engine.subprocess.environment import worker_environment
from server.engine.subprocess.template import TEMPLATE


@cache
def shared_template() -> Path:
    """The socket of the template, which starts when it is first asked for and ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="paddock-tests")
    path = Path(folder.name) / "template"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(128)
        template = subprocess.Popen(
            [sys.executable, "-P", "-m", TEMPLATE, str(listener.fileno())],
            env=worker_environment("cpu"),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    atexit.register(folder.cleanup)
    atexit.register(template.wait)
    atexit.register(template.kill)
    return path
