"""The memory plan for a model on a device and host of this machine, with the memory that is free now."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from pipelines.core.errors import HostMemoryError, MachineBusyError, PipelineError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec, SoundSpec
from pipelines.core.precision import Accuracy, PrecisionSetting
from pipelines.hub import local as weights
from pipelines.loading.lora.loras import Loras
from pipelines.loading.single_file import SingleFile
from pipelines.models.family import stored_parameters
from pipelines.models.registry import family_of, parts_family
from pipelines.planning.layout import GIB, HOST_SHARE, Machine, MemoryPlan, format_gib
from pipelines.planning.planner import plan
from pipelines.planning.shapes import ModelShape

log = logging.getLogger("paddock.load")

HELD_SHARE = 0.25
"""Of a memory of which other programs hold more than this share, they are expected to let go; less is held for good, by
a desktop for example."""

SMALLEST_VIDEO = (480, 272, 33)
"""Width, height and frames. A model is of use if this video can be made."""

_NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_REFUSALS = (*_NO_MEMORY, "busy or unavailable")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a memory that are free now, and all of them."""

    free: int
    total: int

    @property
    def is_held(self) -> bool:
        """Whether other programs hold so much of it that more can be expected to be free later."""
        return self.free < (1 - HELD_SHARE) * self.total


def read_model_shape(spec: ModelSpec, folder: Path) -> ModelShape:
    """Return the shape of a model whose weights are in `folder` and its single files. Raises PipelineError."""
    family = family_of(spec.pipeline_class)
    shape = replace(family.read_shape(folder), guidance=spec.guidance)
    files = weights.locate_files(spec.files)
    measured = []
    for part, path in files.items():
        loras = [
            (weights.locate_file(lora.repo, lora.file, lora.revision), lora.strength)
            for lora in spec.loras
            if lora.part == part
        ]
        measured.append(SingleFile(path, family.part(part)).measure(Loras(loras, family, part)))
    return replace(shape.with_files(tuple(measured)), sound_parameters=_sound_parameters(spec.sound))


def _sound_parameters(sound: SoundSpec | None) -> int:
    """Parameters of the model for sounds; 0 if its weights are not on this machine: then no sounds are made."""
    if sound is None:
        return 0
    family = parts_family(sound.pipeline_class)
    try:
        folder = weights.locate(sound)
        return sum(stored_parameters(folder / part.name, part) for part in family.used(family.read_index(folder)))
    except PipelineError:
        return 0


def plan_for_device(spec: ModelSpec, folder: Path, device: str, limit: int | None = None) -> MemoryPlan | None:
    """Return the plan for a device (a torch device name), with at most `limit` bytes of its memory.

    None on a CPU, where there is nothing to choose. Raises HostMemoryError if no plan fits the host's memory, and
    MachineBusyError if a model that has room in the memory of this machine has none in what other programs leave.
    """
    if torch.device(device).type != "cuda":
        return None
    shape, machine = read_model_shape(spec, folder), current_machine(device, limit, spec.precision, spec.accuracy)
    check_others(shape, spec, device, limit)
    chosen = choose_plan(shape, spec.sizes, machine)
    check_host_memory(chosen, machine, host_memory())
    return chosen


def check_others(shape: ModelShape, spec: ModelSpec, device: str, limit: int | None = None) -> None:
    """Raise MachineBusyError if other programs leave no room for even the smallest video, which has it otherwise.

    A memory of which they hold a small share counts as it is: what does not fit there never will. Nothing is known of a
    CPU.
    """
    if torch.device(device).type != "cuda":
        return
    now = current_machine(device, limit, spec.precision, spec.accuracy)
    card, host = device_memory(device), host_memory()
    freed = replace(
        now,
        device_memory=(card.total if limit is None else min(card.total, limit)) if card.is_held else now.device_memory,
        host_memory=round(host.total * HOST_SHARE) if host.is_held else now.host_memory,
    )
    smallest = Geometry.fit(*SMALLEST_VIDEO, shape.grid)
    least = plan(shape, smallest, now)
    if least.fits(now) or not (later := plan(shape, smallest, freed)).fits(freed):
        return
    if card.is_held and least.device_peak > now.device_memory:
        raise _busy(device, card, least.device_peak)
    raise _busy("the host", host, later.host_peak)


def check_host_memory(chosen: MemoryPlan, machine: Machine, host: Memory | None = None) -> None:
    """Raise an error if a plan needs more host memory than is free: the system would kill the worker.

    It is MachineBusyError if other programs hold much of `host`, where the plan has room otherwise; else
    HostMemoryError.
    """
    if chosen.host_peak <= machine.host_memory:
        return
    if host is not None and host.is_held and chosen.host_peak <= host.total * HOST_SHARE:
        raise _busy("the host", host, chosen.host_peak)
    raise HostMemoryError(
        f"Loading the model needs {chosen.host_peak / GIB:.1f} GiB of host memory, and "
        f"{machine.host_memory / GIB:.1f} GiB is free. Close other programs, or add memory."
    )


def _busy(whose: str, memory: Memory, needed: int) -> MachineBusyError:
    return MachineBusyError(
        f"Other programs hold the memory of {whose}: {format_gib(memory.free)} of {format_gib(memory.total)} is free, "
        f"and the model needs {format_gib(needed)}. Close some of them, or wait until they end."
    )


def current_machine(
    device: str,
    limit: int | None = None,
    precision: PrecisionSetting = PrecisionSetting.AUTO,
    accuracy: Accuracy = Accuracy.HIGH,
) -> Machine:
    """Return the free memory of a CUDA device, at most `limit` bytes, and of the host, less the system's share.

    Raises MachineBusyError.
    """
    free = device_memory(device).free
    return Machine(
        free if limit is None else min(free, limit),
        round(host_memory().free * HOST_SHARE),
        torch.cuda.get_device_capability(device),
        precision,
        accuracy,
    )


def device_memory(device: str) -> Memory:
    """Return the memory of a CUDA device, and begin to use it here. Raises MachineBusyError if the driver refuses."""
    try:
        return Memory(*torch.cuda.mem_get_info(device))
    except RuntimeError as error:
        if not is_refusal(error):
            raise
        why = str(error).partition("\n")[0]
        raise MachineBusyError(
            f"{device} takes no more programs now ({why}). Others hold its memory or the whole device: close some of "
            "them, or wait until they end."
        ) from error


def host_memory() -> Memory:
    """Return the memory of this machine, without that of its devices."""
    memory = psutil.virtual_memory()
    return Memory(memory.available, memory.total)


def is_held(device: str) -> bool:
    """Whether other programs hold much of a device's memory, while this process holds none; False for a CPU."""
    return torch.device(device).type == "cuda" and device_memory(device).is_held


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device has too little memory. Not only torch allocates there, libraries do too."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def is_refusal(error: RuntimeError) -> bool:
    """Whether a working device cannot serve this process now, since it has no memory or is in use."""
    return any(sign in str(error) for sign in _REFUSALS)


def choose_plan(shape: ModelShape, sizes: Sequence[tuple[int, int, int]], machine: Machine) -> MemoryPlan:
    """Return the plan for the first of `sizes` (width, height, frames) that fits, else the last one's.

    A warning is logged for each size that does not fit.
    """
    for size in sizes:
        chosen = plan(shape, Geometry.fit(*size, shape.grid), machine)
        if chosen.fits(machine):
            return chosen
        log.warning("videos of %dx%d and %d frames may not fit. %s", *size, chosen.shortfall(machine))
    return chosen
