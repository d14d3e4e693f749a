"""/models: the catalogue, the state of each model's weights, and loading and unloading."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.family import InputUse
from server.api.dependencies import AdminDep, ServiceDep, TenantDep, error_responses
from server.api.schemas.models import EvaluationModels, Model, ModelList
from server.api.schemas.requests import OWN_PARAMETERS, WEBHOOK_PARAMETERS
from server.service.requests.echo import AUDIO_PROMPT, ENHANCE_NAMES, EXTEND, GENERATE_AUDIO, IMAGE_MODE, STRENGTH
from server.service.requests.inputs import IMAGE, LAST_IMAGES, VIDEO
from server.service.service import Service


async def _look_for_sounds(service: ServiceDep) -> None:
    await service.sounds.refresh()


router = APIRouter(prefix="/models", tags=["models"], dependencies=[Depends(_look_for_sounds)])
evaluations = APIRouter(prefix="/evaluations/models", tags=["models"])


@router.get("", operation_id="listModels", summary="List models", response_model=ModelList, responses=error_responses())
async def index(
    service: ServiceDep,
    _tenant: TenantDep,
    developer_name: Annotated[str | None, Query(description="Only models of this developer")] = None,
) -> dict[str, Any]:
    """Returns the models of the catalogue."""
    return _list(
        service,
        (
            entry
            for entry in service.catalogue.values()
            if developer_name is None or entry.api.developer.name == developer_name
        ),
    )


@router.get(
    "/search",
    operation_id="searchModels",
    summary="Search models",
    response_model=ModelList,
    responses=error_responses(),
)
async def search(
    service: ServiceDep,
    _tenant: TenantDep,
    search: Annotated[str, Query(description="Words to search for in ids, names and descriptions", max_length=200)],
) -> dict[str, Any]:
    """Returns the models whose id, names and description contain all the words."""
    words = set(search.lower().split())
    found = ((entry, _searchable(entry)) for entry in service.catalogue.values())
    return _list(service, (entry for entry, text in found if all(word in text for word in words)))


@router.get(
    "/featured",
    operation_id="listFeaturedModels",
    summary="List featured models",
    response_model=ModelList,
    responses=error_responses(),
)
async def featured(service: ServiceDep, _tenant: TenantDep) -> dict[str, Any]:
    """Returns the featured models."""
    return _list(service, (entry for entry in service.catalogue.values() if entry.api.featured))


@router.get(
    "/{id}", operation_id="getModel", summary="Get a model", response_model=Model, responses=error_responses(404)
)
async def show(id: str, service: ServiceDep, _tenant: TenantDep) -> dict[str, Any]:
    """Returns a model with the JSON Schema of its request parameters and the state of its weights."""
    return _model(service, service.entry(id))


@router.post(
    "/{id}/activate",
    operation_id="activateModel",
    summary="Load a model",
    response_model=Model,
    responses=error_responses(403, 404),
)
async def activate(id: str, service: ServiceDep, _admin: AdminDep) -> dict[str, Any]:
    """Starts loading the weights and returns at once. `deployments` shows when they are loaded.

    While the server has an admin key, only admin keys may do this.
    """
    entry = service.entry(id)
    service.activate(entry)
    return _model(service, entry)


@router.post(
    "/{id}/deactivate",
    operation_id="deactivateModel",
    summary="Unload a model",
    response_model=Model,
    responses=error_responses(403, 404),
)
async def deactivate(id: str, service: ServiceDep, _admin: AdminDep) -> dict[str, Any]:
    """Frees the device once the running generation has ended. The next generation loads the weights again.

    While the server has an admin key, only admin keys may do this.
    """
    entry = service.entry(id)
    service.deactivate(entry)
    return _model(service, entry)


@evaluations.get(
    "",
    operation_id="listEvaluationModels",
    summary="List models for documentation tools",
    response_model=EvaluationModels,
    responses=error_responses(),
)
async def for_documentation(service: ServiceDep, _tenant: TenantDep) -> dict[str, Any]:
    """Returns the models in the format of documentation tools."""
    return {
        "models": [
            {
                "name": entry.id,
                "display_name": entry.api.display_name,
                "description": entry.api.description,
                "summary": entry.api.summary,
                "model_type": "base",
                "capabilities": _capabilities(entry),
                "developer": entry.api.developer.model_dump(),
                "can_run_inference": True,
                "deprecated": False,
                "json_request_schema": entry.api.request_schema,
            }
            for entry in service.catalogue.values()
        ]
    }


def _list(service: Service, entries: Any) -> dict[str, Any]:
    return {"object": "list", "data": [_model(service, entry) for entry in entries]}


def _model(service: Service, entry: CatalogueEntry) -> dict[str, Any]:
    api = entry.api
    return {
        "id": api.id,
        "object": "model",
        "created": api.created,
        "owned_by": api.owned_by,
        "display_name": api.display_name,
        "summary": api.summary,
        "description": api.description,
        "developer": api.developer.model_dump(),
        "capabilities": _capabilities(entry),
        "endpoint": "/videos/generate",
        "model_type": "base",
        "released_at": api.released_at,
        "image_url": api.image_url,
        "deployments": [{"status": service.deployment(api.id)}],
        "request_schema": api.request_schema,
        "json_request_schema": api.request_schema,
        "x-paddock-parameters": _own_parameters(service, entry),
        "fine_tuning": None,
        "source_model": None,
        "showcase": None,
        "fps": entry.model.fps,
        "weights": "demo" if service.settings.demo else "real",
        "plan": service.plan(api.id),
    }


def _own_parameters(service: Service, entry: CatalogueEntry) -> dict[str, Any]:
    images = service.input_sources.images(entry)
    uses = {IMAGE: images.first, EXTEND: images.first} | dict.fromkeys(LAST_IMAGES, images.last)
    lacks = {name for name, use in uses.items() if use is InputUse.NONE}
    if not service.input_sources.takes_video(entry):
        lacks |= {VIDEO, STRENGTH}
    if not service.input_sources.takes_image_mode(entry):
        lacks.add(IMAGE_MODE)
    if not service.sounds.makes(entry):
        lacks |= {GENERATE_AUDIO, AUDIO_PROMPT}
    if not service.prompts.is_configured:
        lacks |= set(ENHANCE_NAMES)
    # what a model's file asks for where a request says nothing
    standard = dict.fromkeys(ENHANCE_NAMES, {"default": True} if entry.api.enhance_prompt else {})
    own = {**OWN_PARAMETERS, **(WEBHOOK_PARAMETERS if service.settings.webhooks else {})}
    return {name: {**schema, **standard.get(name, {})} for name, schema in own.items() if name not in lacks}


def _capabilities(entry: CatalogueEntry) -> dict[str, list[str]]:
    return {"input": entry.api.input, "output": entry.api.output}


def _searchable(entry: CatalogueEntry) -> str:
    api = entry.api
    return " ".join((api.id, api.display_name, api.summary, api.description, api.developer.name)).lower()
