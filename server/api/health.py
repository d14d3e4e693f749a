"""/healthz and /readyz: whether the process answers, and whether it takes work."""

from typing import Any

from fastapi import APIRouter

from server import __version__
from server.api.deps import ServiceDep
from server.api.schemas import ErrorBody, Health, Readiness
from server.errors import UnavailableError

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process answers", response_model=Health)
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
    """Generations are accepted. A device that holds no model yet loads it at the first request."""
    if service.is_closing:
        raise UnavailableError("The server is stopping.")
    await service.check_room()
    return {
        "status": "ready",
        "demo": service.settings.demo,
        "version": __version__,
        "queued": await service.queue_length(),
        "free_bytes": service.free_bytes,
        "devices": [
            {
                "device": lane.state.device,
                "model": lane.state.model_id,
                "plan": lane.state.plan,
                "loading": lane.state.loading,
                "busy": lane.running is not None,
                "error": lane.state.error,
            }
            for lane in service.lanes
        ],
    }
