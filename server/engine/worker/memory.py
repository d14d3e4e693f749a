"""Free memory of a device, for the heartbeats."""

import sys
import threading

from server.engine.protocol import DeviceMemory
from server.engine.worker.link import Link

MEMORY_SECONDS = 2.0


def watch_memory(link: Link, device: str) -> None:
    """Add the free memory of a GPU to the heartbeats, once the worker uses it.

    This runs in a thread of its own: a driver that does not answer must not delay heartbeats.
    """

    def look() -> None:
        wait = threading.Event()
        while not wait.wait(MEMORY_SECONDS):
            # not imported here: that takes seconds, and a CUDA context takes memory
            torch = sys.modules.get("torch")
            if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
                try:
                    free, total = torch.cuda.mem_get_info(device)
                except RuntimeError:
                    # other programs hold all of it; loading a model says so
                    link.memory = None
                else:
                    link.memory = DeviceMemory(free=free, total=total)

    if device.startswith("cuda"):
        threading.Thread(target=look, name="memory", daemon=True).start()
