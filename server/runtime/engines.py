"""Builds the engines, one per device, and the template process that workers of this machine are forked from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from server.core.settings.sections import WarmWorkers
from server.core.settings.settings import Settings
from server.engine.interface import WorkerOptions
from server.engine.ray.nodes import ClusterHost
from server.engine.ray.options import BRIDGE, BRIDGE_EXITS, TOKEN_FILE, BridgeOptions, bridge_environment
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
    """Build the engine of a device of this machine (a torch name)."""
    temporary = settings.data_dir / TEMPORARY / device.replace(":", "-")
    options = _worker_options(settings, device, folders, str(temporary))
    return _engine(settings, device, options, template=template)


def make_cluster_engine(settings: Settings, host: ClusterHost, index: int, folders: LocalFolders) -> SubprocessEngine:
    """Build the engine of a device of a host of the cluster."""
    assert settings.ray_address is not None
    name = device_name(host, index)
    options = _worker_options(settings, host.torch_device(index), folders, temporary="")
    bridge = BridgeOptions(
        **options.model_dump() | {"checkpoint_interval": settings.ray_checkpoint_interval},
        address=settings.ray_address,
        host=host.name,
        node_id=host.node_id,
        index=index,
    )
    environment = bridge_environment(settings.ray_address, token_file(settings))
    return _engine(settings, name, bridge, worker=BRIDGE, environment=environment, blameless=BRIDGE_EXITS)


def device_name(host: ClusterHost, index: int) -> str:
    """The name of a device of a host: apart from the names of torch devices, which are the same on all hosts."""
    return f"{host.name}/{index}"


def token_file(settings: Settings) -> Path | None:
    """The file with the cluster's token, None if there is none."""
    named = settings.ray_token_file
    default = settings.data_dir / TOKEN_FILE
    return named or (default if default.is_file() else None)


def _worker_options(settings: Settings, device: str, folders: LocalFolders, temporary: str) -> WorkerOptions:
    return WorkerOptions(
        device=device,
        artifacts=str(folders.videos.folder),
        checkpoints=str(folders.checkpoints.folder),
        previews=str(folders.previews.folder),
        inputs=str(folders.inputs.folder),
        checkpoint_interval=settings.checkpoint_interval,
        preview_interval=settings.preview_interval,
        cache=str(settings.data_dir / "cache"),
        temporary=temporary,
        loras=None if settings.loras_dir is None else str(settings.loras_dir),
        recipe=settings.recipe,
        demo=settings.demo,
        log_format=settings.log_format,
    )


def _engine(settings: Settings, name: str, options: WorkerOptions, **how: Any) -> SubprocessEngine:
    # on a CPU the real weights can take hours per step, and CPU kernels do not hang
    first = settings.stall_first * (_CPU_STALL_FACTOR if options.device == "cpu" else 1)
    return SubprocessEngine(
        name,
        options,
        cancel_grace=settings.cancel_grace,
        silence=settings.worker_silence,
        patience=Patience(floor=settings.stall_floor, first=first, load=settings.stall_load),
        **how,
    )
