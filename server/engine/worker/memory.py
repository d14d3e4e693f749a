"""Free memory of a device, for the heartbeats."""

import sys
import threading

from server.engine.protocol import DeviceMemory
from server.engine.worker.link import Link

MEMORY_SECONDS = 2.0


def watch_memory(link: Link, device: str) -> None:
    """Have heartbeats tell how much of a card is free, once the worker uses it.

    On a thread of its own: a driver that does not answer must not keep the heart from beating.
    """

    def look() -> None:
        wait = threading.Event()
        while not wait.wait(MEMORY_SECONDS):
            # not imported for this: that takes seconds, and a CUDA context memory
            torch = sys.modules.get("torch")
            if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
                free, total = torch.cuda.mem_get_info(device)
                link.memory = DeviceMemory(free=free, total=total)

    if device.startswith("cuda"):
        threading.Thread(target=look, name="memory", daemon=True).start()
