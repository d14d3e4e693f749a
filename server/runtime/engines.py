"""Builds the engines, one per device, and the template process that their workers are forked from."""

from collections.abc import Sequence

import psutil

from server.core.settings.sections import WarmWorkers
from server.core.settings.settings import Settings
from server.engine.interface import WorkerOptions
from server.engine.subprocess.engine import SubprocessEngine
from server.engine.subprocess.environment import worker_environment
from server.engine.subprocess.template import WorkerTemplate
from server.engine.watchdog import Patience
from server.runtime.environment import TEMPORARY
from server.storage.files.stores import LocalFolders

_CPU_STALL_FACTOR = 24
_WARM_HOST_BYTES = 8 * 2**30
"""Least host memory for a template, which takes 0.4 GiB itself, most of it shared with its workers."""


def worker_template(settings: Settings, devices: Sequence[str]) -> WorkerTemplate | None:
    """Build the template for the workers of these devices (torch names, all GPUs or all CPUs); None if it is off."""
    warm = settings.warm_workers
    if warm is WarmWorkers.AUTO:
        warm = WarmWorkers.ON if psutil.virtual_memory().total >= _WARM_HOST_BYTES else WarmWorkers.OFF
    if warm is WarmWorkers.OFF:
        return None
    return WorkerTemplate(worker_environment(devices[0]), settings.worker_template)


def make_engine(
    settings: Settings,
    device: str,
    folders: LocalFolders,
    template: WorkerTemplate | None,
) -> SubprocessEngine:
    """Build the engine of a device (a torch name)."""
    options = WorkerOptions(
        device=device,
        artifacts=str(folders.videos.folder),
        checkpoints=str(folders.checkpoints.folder),
        previews=str(folders.previews.folder),
        inputs=str(folders.inputs.folder),
        checkpoint_interval=settings.checkpoint_interval,
        preview_interval=settings.preview_interval,
        cache=str(settings.data_dir / "cache"),
        temporary=str(settings.data_dir / TEMPORARY / device.replace(":", "-")),
        loras=None if settings.loras_dir is None else str(settings.loras_dir),
        demo=settings.demo,
        log_format=settings.log_format,
    )
    # on a CPU the real weights can take hours per step, and CPU kernels do not hang
    first = settings.stall_first * (_CPU_STALL_FACTOR if device == "cpu" else 1)
    return SubprocessEngine(
        device,
        options,
        cancel_grace=settings.cancel_grace,
        silence=settings.worker_silence,
        patience=Patience(floor=settings.stall_floor, first=first, load=settings.stall_load),
        template=template,
    )
