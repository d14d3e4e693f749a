"""Writes the data directory kept for upgrades, with that version.

python -m tests.support.make_fixture tests/data/NAME

It holds one generation of each fate: finished, failed, cancelled, interrupted by a kill with its checkpoint, and still
waiting.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support.server_process import ServerProcess

# the weights are built anew, the lock is the server's, and a key is nobody else's
LEFT_OUT = ("cache", "lock", "signing.key")


def main() -> None:
    """Run a server, kill it mid-generation, keep what it leaves."""
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
