"""Writes a data directory of this version, for upgrade tests of later versions.

python -m tests.support.make_fixture tests/data/NAME

It has one generation in each state: finished, failed, cancelled, interrupted by a kill, with a checkpoint, and queued.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support.server_process import ServerProcess

# weights are converted again, the lock is the server's own, and a signing key must not be shared
LEFT_OUT = ("cache", "lock", "signing.key")


def main() -> None:
    """Run a server, kill it during a generation, and copy its data directory."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data", checkpoint_interval="0.05")
        server.start()
        server.video(server.enqueue(prompt="finished", seed=7, mood="calm"))
        server.enqueue(prompt="failed", height=0)
        interrupted = server.enqueue(prompt="interrupted", num_inference_steps=100, width=128, height=128)
        server.enqueue(prompt="waiting")
        server.http.delete(f"/queue/{server.enqueue(prompt='cancelled')}")
        while server.row(interrupted)["progress"] < 0.4:
            time.sleep(0.01)
        server.kill()
        server.close()
        time.sleep(1)
        shutil.copytree(server.data_dir, target, ignore=shutil.ignore_patterns(*LEFT_OUT))


if __name__ == "__main__":
    main()
