"""GET /v1/models: the catalogue as OpenAI's clients read it."""

from typing import Any

from fastapi import APIRouter

from server.api.dependencies import ServiceDep, TenantDep
from server.api.openai.resources import model
from server.api.openai.schemas import OpenaiModel, OpenaiModelList, openai_responses

router = APIRouter(prefix="/v1/models", tags=["openai"])


@router.get(
    "",
    operation_id="listOpenaiModels",
    summary="List models in OpenAI's form",
    response_model=OpenaiModelList,
    responses=openai_responses(),
)
async def index(service: ServiceDep, _tenant: TenantDep) -> dict[str, Any]:
    """Returns the models of the catalogue."""
    return {"object": "list", "data": [model(entry) for entry in service.catalogue.values()]}


@router.get(
    "/{model_id}",
    operation_id="retrieveOpenaiModel",
    summary="Get a model in OpenAI's form",
    response_model=OpenaiModel,
    responses=openai_responses(404),
)
async def show(model_id: str, service: ServiceDep, _tenant: TenantDep) -> dict[str, Any]:
    """Returns a model of the catalogue."""
    return model(service.entry(model_id))
