"""The real server with few file descriptors, for `python -P -m tests.stress.attack.held_server serve …`.

The memory limit is set from outside once the server has started. It is for the server's process alone: its children
are started without it.
"""

import asyncio
import os
import resource
from functools import partial

from server.cli import main as cli

DESCRIPTORS = "ATTACK_DESCRIPTORS"
"""The environment variable with the limit of open files, if there is one."""

if __name__ == "__main__":
    if descriptors := os.environ.get(DESCRIPTORS):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
    without_limit = ("prlimit", "--data=unlimited", "--")
    asyncio.create_subprocess_exec = partial(asyncio.create_subprocess_exec, *without_limit)
    cli.main()
