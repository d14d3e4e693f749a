"""The device that a benchmark runs on: a GPU, measured through torch and its driver, or a CPU in its place."""

import subprocess
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import psutil
import torch

from pipelines.loading.device_plan import current_machine
from pipelines.planning.layout import GIB, Machine

PERIOD_SECONDS = 0.05
"""Interval at which the driver is asked for the memory in use: a shorter peak may be missed."""


@dataclass(frozen=True, slots=True)
class Use:
    """Peak bytes of a GPU since `reset`.

    `allocated` is the tensors' memory, `reserved` what the allocator held for them. `outside` is what the driver counts
    in addition, measured now: the context, loaded kernels, and other processes.
    """

    allocated: int
    reserved: int
    outside: int


class Card(Protocol):
    """The device that a case is measured on."""

    device: torch.device

    def facts(self) -> dict[str, Any]:
        """Return what describes the device in a record."""
        ...

    def machine(self) -> Machine:
        """Return what a plan may use of the device and the host."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        ...

    def reset(self) -> None:
        """Reset the peaks."""
        ...

    def use(self) -> Use | None:
        """Return the peaks since `reset`; None if the device counts none."""
        ...

    def driver_used(self) -> int:
        """Return the bytes in use now, from the driver; 0 without one."""
        ...


class Gpu:
    """The first CUDA device. With `cap`, torch gets no more than a GPU of so many bytes would give it."""

    def __init__(self, cap: int | None = None) -> None:
        self.device = torch.device("cuda:0")
        torch.cuda.init()
        # memory is counted only once there is a context
        torch.zeros(1, device=self.device)
        self._context = self._outside()
        if cap is not None:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, (cap - self._context) / total), self.device)

    def facts(self) -> dict[str, Any]:
        known = torch.cuda.get_device_properties(self.device)
        return {
            "gpu": known.name,
            "gpu_bytes": known.total_memory,
            "capability": [known.major, known.minor],
            "driver": driver_version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "context_bytes": self._context,
        }

    def machine(self) -> Machine:
        return current_machine(str(self.device))

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def use(self) -> Use:
        return Use(
            torch.cuda.max_memory_allocated(self.device),
            torch.cuda.max_memory_reserved(self.device),
            self._outside(),
        )

    def driver_used(self) -> int:
        free, total = torch.cuda.mem_get_info(self.device)
        return int(total - free)

    def _outside(self) -> int:
        return self.driver_used() - int(torch.cuda.memory_reserved(self.device))


class Processor:
    """A CPU. Plans are made as for a GPU of 80 GB in a host of 128 GB; it counts no peaks."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def facts(self) -> dict[str, Any]:
        return {"gpu": None}

    def machine(self) -> Machine:
        return Machine(79 * GIB, round(0.9 * 128 * GIB), (9, 0))

    def synchronize(self) -> None:
        """Do nothing: a CPU queues no work."""

    def reset(self) -> None:
        """Do nothing: there are no peaks."""

    def use(self) -> None:
        return None

    def driver_used(self) -> int:
        return 0


def open_card(cap: int | None) -> Card:
    """Return the first CUDA device, limited to `cap` bytes if given, or the CPU of a machine without one."""
    return Gpu(cap) if torch.cuda.is_available() else Processor()


def driver_version() -> str | None:
    """Return the NVIDIA driver's version from nvidia-smi; None if that is missing."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.split("\n", 1)[0].strip()


class Watch:
    """A context that samples in the background how much memory of the GPU and the host is in use.

    `card` is the GPU's peak in bytes since `restart`, `host` the peak increase of the host's since it was entered.
    """

    def __init__(self, driver_used: Callable[[], int]) -> None:
        self._driver_used = driver_used
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)
        self._available = psutil.virtual_memory().available
        self.card = 0
        self.host = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def restart(self) -> None:
        """Reset the GPU's peak."""
        self.card = 0

    def sample(self) -> None:
        """Take a sample now."""
        self.card = max(self.card, self._driver_used())
        self.host = max(self.host, self._available - psutil.virtual_memory().available)

    def _sample(self) -> None:
        while not self._over.wait(PERIOD_SECONDS):
            self.sample()


@dataclass(frozen=True, slots=True)
class Stage:
    """The seconds and the GPU memory of a stage; `driver` is the driver's peak in bytes."""

    seconds: float
    use: Use | None
    driver: int

    def json(self) -> dict[str, Any]:
        """Return the figures by name; those of the GPU only if there is one."""
        seconds = {"seconds": round(self.seconds, 3)}
        return seconds if self.use is None else {**seconds, **asdict(self.use), "driver": self.driver}
