"""The real server with few file descriptors, for `python -P -m tests.stress.attack.held_server serve …`.

The memory limit is set from outside once the server has started. It is for the server's process alone: its children
are started without it.
"""

import asyncio
import os
import resource
import threading
from functools import partial

from server.cli import main as cli

DESCRIPTORS = "ATTACK_DESCRIPTORS"
"""The environment variable with the limit of open files, if there is one."""

STACK_BYTES = 2**20

if __name__ == "__main__":
    if descriptors := os.environ.get(DESCRIPTORS):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
    # the limit counts whole stacks, though little of them is ever used
    threading.stack_size(STACK_BYTES)
    without_limit = ("prlimit", "--data=unlimited", "--")
    asyncio.create_subprocess_exec = partial(asyncio.create_subprocess_exec, *without_limit)
    cli.main()
