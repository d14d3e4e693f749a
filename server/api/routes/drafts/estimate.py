"""POST /estimate: how long a request would take, and whether it would fit."""

from typing import Any

from fastapi import APIRouter

from server.api.dependencies import BodyDep, ServiceDep, TenantDep, error_responses, json_body
from server.api.schemas.drafts.estimates import Estimate
from server.api.schemas.requests import ENQUEUE, EXAMPLE

router = APIRouter(prefix="/estimate", tags=["queue"])


@router.post(
    "",
    operation_id="estimateGeneration",
    summary="Estimate a generation",
    response_model=Estimate,
    responses=error_responses(404, 413, 415, 503),
    openapi_extra=json_body(ENQUEUE, EXAMPLE),
)
async def estimate(body: BodyDep, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Takes the body of a request for the queue, and responds with what is known about it: how long one of its videos
    takes, how long it would wait, and whether it fits the memory of this machine. Nothing is recorded or reserved, and
    inputs are not looked at. Invalid parameters are refused with the sentence that the generation would fail with.
    """
    made = await service.estimate(tenant, body.content)
    fit = made.fit
    width, height = fit.suggestion if fit is not None and fit.suggestion is not None else (None, None)
    return {
        "seconds": made.seconds,
        "queue_seconds": made.queue_seconds,
        "fits": None if fit is None else fit.fits,
        "reason": None if fit is None else fit.reason,
        "suggestion": None if width is None else {"width": width, "height": height},
    }
