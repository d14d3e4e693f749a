"""/metrics: the server's figures, for Prometheus."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.api.dependencies import ServiceDep, TenantDep, gives
from server.service.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"description": "Text of Prometheus", "content": {"text/plain": {}}}, **gives(503)},
)
async def show(request: Request, service: ServiceDep, _tenant: TenantDep) -> Response:
    """How many wait, how long they did, what became of them, how long steps take, and how the devices are."""
    metrics: Metrics = request.app.state.metrics
    queued = await service.queue_length()
    return Response(metrics.render(queued, service.free_bytes), headers={"Content-Type": CONTENT_TYPE})
