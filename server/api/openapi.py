"""The OpenAPI document: FastAPI's own, with the request bodies, which depend on the catalogue and the settings."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI

from pipelines.models.catalogue import CatalogueEntry
from server.api.schemas.requests import body_schemas
from server.core.settings import QueueSettings


def complete_openapi(
    app: FastAPI, catalogue: Callable[[], Mapping[str, CatalogueEntry]], settings: QueueSettings
) -> None:
    """Correct an application's document when it is first requested, and add the schemas of the request bodies."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            _remove_validation_errors(document)
            document["components"]["schemas"] |= body_schemas(catalogue(), settings)
            document["servers"] = [{"url": "/"}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def with_server(document: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Return the document for clients that reach the server at a URL or a path."""
    return {**document, "servers": [{"url": url.rstrip("/") or "/"}]}


def _remove_validation_errors(document: dict[str, Any]) -> None:
    """Remove FastAPI's own answer to invalid parameters, 422: the error handlers answer 400 instead."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
