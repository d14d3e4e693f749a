"""The plan for a model on the device and host of this machine, as they are now."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from pipelines.core.errors import HostMemoryError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec, WeightFile
from pipelines.core.precision import PrecisionSetting
from pipelines.hub import local as weights
from pipelines.loading import single_file
from pipelines.planning.layout import GIB, HOST_SHARE, Machine, MemoryPlan
from pipelines.planning.planner import plan
from pipelines.planning.shapes import ModelShape, read_shape

log = logging.getLogger("paddock.load")


def shape_here(folder: Path, files: Sequence[WeightFile] = (), guidance: bool = True) -> ModelShape:
    """The shapes of the weights in a folder, or for some transformers in files of their own; raises PipelineError."""
    shape = replace(read_shape(folder), guidance=guidance)
    return shape.with_files(tuple(map(single_file.measure, weights.locate_files(files).values())))


def plan_here(spec: ModelSpec, folder: Path, device: str, limit: int | None = None) -> MemoryPlan | None:
    """The plan for weights on a device and host as they are now, with at most `limit` bytes of the device.

    None on a CPU, where there is nothing to choose. Raises HostMemoryError where no plan can pass through the host.
    """
    if torch.device(device).type != "cuda":
        return None
    machine = this_machine(device, limit, spec.precision)
    chosen = choose_plan(shape_here(folder, spec.files, spec.guidance), spec.sizes, machine)
    check_host(chosen, machine)
    return chosen


def check_host(chosen: MemoryPlan, machine: Machine) -> None:
    """Raise HostMemoryError if a plan needs more host memory than is free: the system would end the worker midway."""
    if chosen.host_peak > machine.host_memory:
        raise HostMemoryError(
            f"Loading the model needs {chosen.host_peak / GIB:.1f} GiB of host memory, and "
            f"{machine.host_memory / GIB:.1f} GiB is free. Close other programs, or add memory."
        )


def this_machine(device: str, limit: int | None = None, precision: PrecisionSetting = PrecisionSetting.AUTO) -> Machine:
    """What is free now of a CUDA device, `limit` bytes at most, and of the host, less the system's share."""
    free, _ = torch.cuda.mem_get_info(device)
    return Machine(
        free if limit is None else min(free, limit),
        round(psutil.virtual_memory().available * HOST_SHARE),
        torch.cuda.get_device_capability(device),
        precision,
    )


def choose_plan(shape: ModelShape, sizes: Sequence[tuple[int, int, int]], machine: Machine) -> MemoryPlan:
    """The plan for the first of `sizes` (width, height, frames) that fits, else the last one's, told in the log."""
    for size in sizes:
        chosen = plan(shape, Geometry.fit(*size, shape.grid), machine)
        if chosen.fits(machine):
            return chosen
        log.warning("videos of %dx%d and %d frames may not fit. %s", *size, chosen.shortfall(machine))
    return chosen
