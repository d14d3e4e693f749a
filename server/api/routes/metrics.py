"""/metrics: the server's metrics for Prometheus."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.api.dependencies import ServiceDep, TenantDep, error_responses
from server.service.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **error_responses(503),
    },
)
async def show(request: Request, service: ServiceDep, _tenant: TenantDep) -> Response:
    """Returns queue length, waiting times, results, step durations and the state of the devices."""
    metrics: Metrics = request.app.state.metrics
    queued = await service.queue_length()
    return Response(metrics.render(queued, service.free_bytes), headers={"Content-Type": CONTENT_TYPE})
