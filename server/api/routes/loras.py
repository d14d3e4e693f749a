"""/loras: the LoRAs that requests may name."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from server.api.dependencies import ServiceDep, TenantDep, error_responses
from server.api.schemas.loras import LoraList

router = APIRouter(prefix="/loras", tags=["models"])


@router.get(
    "", operation_id="listLoras", summary="List LoRAs", response_model=LoraList, responses=error_responses(404, 503)
)
async def index(
    service: ServiceDep,
    _tenant: TenantDep,
    model: Annotated[str | None, Query(description="The id of a model: only LoRAs that fit it")] = None,
) -> dict[str, Any]:
    """Returns the LoRAs of the models' files and of the folder `loras_dir`, by the names that requests use."""
    found = await service.loras(None if model is None else service.entry(model))
    return {"object": "list", "data": [asdict(lora) for lora in found]}
