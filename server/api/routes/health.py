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
from server.scheduler.executor import Lane

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
    if all(lane.circuit.health is Health.UNHEALTHY for lane in service.lanes):
        raise UnavailableError(" ".join(_what_is_wrong(lane) for lane in service.lanes))
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
                "device": lane.state.device,
                "model": lane.state.model_id,
                "plan": lane.state.plan,
                "loading": lane.state.loading,
                "busy": lane.running is not None,
                "error": lane.circuit.reason or lane.state.error,
                "health": lane.circuit.health,
                "failures": lane.circuit.failures,
                "retry_in": lane.circuit.wait or None,
                "memory": lane.state.memory and lane.state.memory.model_dump(),
            }
            for lane in service.lanes
        ],
    }


def _what_is_wrong(lane: Lane) -> str:
    reason = f"The device {lane.state.device} keeps failing, the last time so: {lane.circuit.reason}."
    return f"{reason} It is tried again in {ceil(lane.circuit.wait)} seconds."
