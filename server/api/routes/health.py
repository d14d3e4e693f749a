"""/healthz and /readyz: whether the process answers, and whether it takes work."""

from math import ceil
from typing import Any

import psutil
from fastapi import APIRouter

from server import __version__
from server.api.dependencies import ServiceDep
from server.api.schemas import responses as schemas
from server.api.schemas.responses import ErrorBody, Readiness
from server.core.circuit_breaker import Health
from server.core.errors import UnavailableError
from server.scheduler.interface import DeviceStatus

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process answers", response_model=schemas.Health)
async def health() -> dict[str, Any]:
    """Answers from the first second on."""
    return {"status": "ok", "version": __version__}


@router.get(
    "/readyz",
    summary="Whether work is taken",
    response_model=Readiness,
    responses={503: {"model": ErrorBody, "description": UnavailableError.title}},
)
async def readiness(service: ServiceDep) -> dict[str, Any]:
    """Generations are accepted. A device that holds no model yet loads it at the first request.

    Not ready while every device is left alone after failures in a row. They are accepted then too, and wait.
    """
    if service.is_closing:
        raise UnavailableError("The server is stopping.")
    await service.check_room()
    # not so on trial: a gate that sends nothing to a server that is not ready would keep it from ever succeeding
    devices = service.devices()
    if all(device.health is Health.UNHEALTHY for device in devices):
        raise UnavailableError(" ".join(map(_what_is_wrong, devices)))
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
                "error": device.error,
                "health": device.health,
                "failures": device.failures,
                "retry_in": device.retry_in,
                "memory": device.memory and device.memory.model_dump(),
            }
            for device in devices
        ],
    }


def _what_is_wrong(device: DeviceStatus) -> str:
    reason = f"The device {device.name} keeps failing, the last time so: {device.error}."
    return f"{reason} It is tried again in {ceil(device.retry_in or 0)} seconds."
