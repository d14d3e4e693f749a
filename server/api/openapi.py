"""The OpenAPI document: FastAPI's own, with the request bodies, which depend on the catalogue and the settings."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import TypeAdapter

from pipelines.models.catalogue import CatalogueEntry
from server.api.openai.schemas import OPENAI_BODIES
from server.api.schemas.requests import body_schemas
from server.core.settings.settings import Settings


def complete_openapi(app: FastAPI, catalogue: Callable[[], Mapping[str, CatalogueEntry]], settings: Settings) -> None:
    """Correct an application's document when it is first requested, and add the schemas of the request bodies."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            # first, for it fails while a model's file is invalid, and FastAPI keeps its document
            bodies = body_schemas(catalogue(), settings)
            document = original()
            schemas = document["components"]["schemas"]
            _complete_operations(document)
            for name, example in _examples(app).items():
                schemas[name]["example"] = example
            schemas |= bodies | OPENAI_BODIES
            document["servers"] = [{"url": "/"}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def with_server(document: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Return the document for clients that reach the server at a URL or a path."""
    return {**document, "servers": [{"url": url.rstrip("/") or "/"}]}


def _examples(app: FastAPI) -> dict[str, Any]:
    """Return the examples of the responses' schemas by name. FastAPI's document has them without what is null."""
    models: set[Any] = {getattr(route, "response_model", None) for route in iter_route_contexts(app.routes)} - {None}
    _, definitions = TypeAdapter.json_schemas([(model, "serialization", TypeAdapter(model)) for model in models])
    return {name: schema["example"] for name, schema in definitions["$defs"].items() if "example" in schema}


def _complete_operations(document: dict[str, Any]) -> None:
    """Remove FastAPI's own answer to invalid parameters, 422, for the error handlers answer 400, and tell of keys."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            # explicitly, for a route without it could be one where it was forgotten
            operation.setdefault("security", [])
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
