"""/metrics: the server's metrics, for Prometheus."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.api.dependencies import ServiceDep, TenantDep, gives
from server.service.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus text format", "content": {"text/plain": {}}}, **gives(503)},
)
async def show(request: Request, service: ServiceDep, _tenant: TenantDep) -> Response:
    """The length of the queue, waiting times, results, the time of a step, and the state of the devices."""
    metrics: Metrics = request.app.state.metrics
    queued = await service.queue_length()
    return Response(metrics.render(queued, service.free_bytes), headers={"Content-Type": CONTENT_TYPE})
