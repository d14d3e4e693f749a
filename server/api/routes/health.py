"""/healthz and /readyz: whether the process responds, and whether it accepts work."""

from math import ceil
from typing import Any

import psutil
from fastapi import APIRouter

from server import __version__
from server.api.dependencies import ServiceDep, error_responses
from server.api.schemas import health as schemas
from server.api.schemas.health import Readiness
from server.core.circuit_breaker import Health
from server.core.errors import UnavailableError
from server.scheduler.interface import DeviceStatus, Drain

_DRAIN = {Drain.DRAINING: "being drained", Drain.DRAINED: "drained"}

router = APIRouter(tags=["health"])


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Check that the process responds",
    response_model=schemas.Health,
    responses=error_responses(needs_key=False),
)
async def health() -> dict[str, Any]:
    """Responds as soon as the server listens."""
    return {"status": "ok", "version": __version__}


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check that generations are accepted",
    response_model=Readiness,
    responses=error_responses(503, needs_key=False),
)
async def readiness(service: ServiceDep) -> dict[str, Any]:
    """The server is ready while it accepts generations, even before a model is loaded: the first request loads it.

    It is not ready while all devices are drained, quarantined after repeated failures, or cannot be used because other
    programs hold their memory. Generations are still accepted then, and wait in the queue.
    """
    if service.is_closing:
        raise UnavailableError("The server is stopping.")
    await service.check_room()
    # a half-open device counts as ready: without requests from the load balancer it would never recover
    devices = service.devices()
    if not devices:
        raise UnavailableError("No device has joined the cluster. Generations are accepted, and wait in the queue.")
    if all(device.drain is not None or device.health is Health.UNHEALTHY for device in devices):
        raise UnavailableError(" ".join(map(_failure, devices)))
    host = psutil.virtual_memory()
    return {
        "status": "ready",
        "demo": service.settings.demo,
        "version": __version__,
        "queued": await service.queue_length(),
        "free_bytes": service.free_bytes,
        "host_memory": {"free": host.available, "total": host.total},
        "devices": [
            {
                "device": device.name,
                "model": device.model,
                "plan": device.plan,
                "loading": device.loading,
                "busy": device.is_busy,
                "used_elsewhere": device.is_taken,
                "error": device.error,
                "compile_error": device.compile_error,
                "health": device.health,
                "failures": device.failures,
                "retry_in": device.retry_in,
                "drain": device.drain,
                "memory": device.memory and device.memory.model_dump(),
            }
            for device in devices
        ],
    }


def _failure(device: DeviceStatus) -> str:
    if device.drain is not None:
        return f"The device {device.name} is {_DRAIN[device.drain]}: `paddock cluster undrain` lets its host back."
    retry_in = ceil(device.retry_in or 0)
    why = (device.error or "").removesuffix(".")
    return f"The device {device.name} takes no generations: {why}. It is tried again in {retry_in} seconds."
