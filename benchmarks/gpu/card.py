"""What a benchmark asks of the device it runs on: a GPU, through torch and its driver, or a processor in its place."""

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
"""How often the driver is asked how much of the card is in use: a peak shorter than that may go unseen."""


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes of a card at the worst moment since `reset`.

    `allocated` is in tensors, `reserved` what the allocator held for them; `outside` is what the driver counts beside
    the allocator, measured now: the context, loaded kernels, and whatever else is on the card.
    """

    allocated: int
    reserved: int
    outside: int


class Card(Protocol):
    """A device that a case is measured on."""

    device: torch.device

    def facts(self) -> dict[str, Any]:
        """What the figures were measured on."""
        ...

    def machine(self) -> Machine:
        """What a plan may use here."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was asked of the device is done."""
        ...

    def reset(self) -> None:
        """Forget the peaks so far."""
        ...

    def use(self) -> Use | None:
        """The peaks since `reset`; None where nobody counts them."""
        ...

    def driver_used(self) -> int:
        """Bytes of the card that are taken now, as its driver says; 0 where there is none."""
        ...


class Gpu:
    """The first CUDA device. With `cap` (bytes) torch may take no more than a card of that size would give it."""

    def __init__(self, cap: int | None = None) -> None:
        self.device = torch.device("cuda:0")
        torch.cuda.init()
        # nothing is counted before there is a context
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
    """A processor, for which plans are made as for a card of 80 GB in a host of 128 GB; it has no peaks to tell."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def facts(self) -> dict[str, Any]:
        return {"gpu": None}

    def machine(self) -> Machine:
        return Machine(79 * GIB, round(0.9 * 128 * GIB), (9, 0))

    def synchronize(self) -> None:
        """It works in step with its caller."""

    def reset(self) -> None:
        """There is nothing to forget."""

    def use(self) -> None:
        return None

    def driver_used(self) -> int:
        return 0


def open_card(cap: int | None) -> Card:
    """The first CUDA device, held to `cap` bytes if given, or the processor of a machine that has none."""
    return Gpu(cap) if torch.cuda.is_available() else Processor()


def driver_version() -> str | None:
    """The NVIDIA driver's version by its own tool; None where that is missing."""
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
    """Asks in the background, from entering to leaving it, how much of card and host is in use.

    `card` is the most bytes of the card since `restart`, `host` the most that the host has lent since entering.
    """

    def __init__(self, driver_used: Callable[[], int]) -> None:
        self._driver_used = driver_used
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
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
        """Begin anew with the card."""
        self.card = 0

    def look(self) -> None:
        """Ask once, now."""
        self.card = max(self.card, self._driver_used())
        self.host = max(self.host, self._available - psutil.virtual_memory().available)

    def _look_on(self) -> None:
        while not self._over.wait(PERIOD_SECONDS):
            self.look()


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage took: seconds, and what of the card it used; `driver` is the most the driver said, in bytes."""

    seconds: float
    use: Use | None
    driver: int

    def json(self) -> dict[str, Any]:
        """Its figures under one name each; those of the card only where there is one."""
        seconds = {"seconds": round(self.seconds, 3)}
        return seconds if self.use is None else {**seconds, **asdict(self.use), "driver": self.driver}
