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
from server.scheduler.executor import DeviceExecutor

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
    if all(executor.circuit.health is Health.UNHEALTHY for executor in service.executors):
        raise UnavailableError(" ".join(_what_is_wrong(executor) for executor in service.executors))
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
                "device": executor.state.device,
                "model": executor.state.model_id,
                "plan": executor.state.plan,
                "loading": executor.state.loading,
                "busy": executor.running is not None,
                "error": executor.circuit.reason or executor.state.error,
                "health": executor.circuit.health,
                "failures": executor.circuit.failures,
                "retry_in": executor.circuit.wait or None,
                "memory": executor.state.memory and executor.state.memory.model_dump(),
            }
            for executor in service.executors
        ],
    }


def _what_is_wrong(executor: DeviceExecutor) -> str:
    reason = f"The device {executor.state.device} keeps failing, the last time so: {executor.circuit.reason}."
    return f"{reason} It is tried again in {ceil(executor.circuit.wait)} seconds."
