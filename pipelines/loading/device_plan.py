"""The memory plan for a model on a device and host of this machine, with the memory that is free now."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from pipelines.core.errors import HostMemoryError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.precision import Accuracy, PrecisionSetting
from pipelines.hub import local as weights
from pipelines.loading.lora.loras import Loras
from pipelines.loading.single_file import SingleFile
from pipelines.models.registry import family_of
from pipelines.planning.layout import GIB, HOST_SHARE, Machine, MemoryPlan
from pipelines.planning.planner import plan
from pipelines.planning.shapes import ModelShape

log = logging.getLogger("paddock.load")


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
    return shape.with_files(tuple(measured))


def plan_for_device(spec: ModelSpec, folder: Path, device: str, limit: int | None = None) -> MemoryPlan | None:
    """Return the plan for a device (a torch device name), with at most `limit` bytes of its memory.

    None on a CPU, where there is nothing to choose. Raises HostMemoryError if no plan fits the host's memory.
    """
    if torch.device(device).type != "cuda":
        return None
    machine = current_machine(device, limit, spec.precision, spec.accuracy)
    chosen = choose_plan(read_model_shape(spec, folder), spec.sizes, machine)
    check_host_memory(chosen, machine)
    return chosen


def check_host_memory(chosen: MemoryPlan, machine: Machine) -> None:
    """Raise HostMemoryError if a plan needs more host memory than is free: the system would kill the worker."""
    if chosen.host_peak > machine.host_memory:
        raise HostMemoryError(
            f"Loading the model needs {chosen.host_peak / GIB:.1f} GiB of host memory, and "
            f"{machine.host_memory / GIB:.1f} GiB is free. Close other programs, or add memory."
        )


def current_machine(
    device: str,
    limit: int | None = None,
    precision: PrecisionSetting = PrecisionSetting.AUTO,
    accuracy: Accuracy = Accuracy.HIGH,
) -> Machine:
    """Return the free memory of a CUDA device, at most `limit` bytes, and of the host, less the system's share."""
    free, _ = torch.cuda.mem_get_info(device)
    return Machine(
        free if limit is None else min(free, limit),
        round(psutil.virtual_memory().available * HOST_SHARE),
        torch.cuda.get_device_capability(device),
        precision,
        accuracy,
    )


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
