"""The OpenAPI document: FastAPI's own, plus the request bodies, which depend on the catalogue and the settings."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI

from pipelines.models.catalogue import CatalogueEntry
from server.api.schemas.requests import body_schemas
from server.core.settings import QueueSettings


def complete_openapi(
    app: FastAPI, catalogue: Callable[[], Mapping[str, CatalogueEntry]], settings: QueueSettings
) -> None:
    """Add the schemas of the request bodies to an application's document when it is first requested."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            original()["components"]["schemas"] |= body_schemas(catalogue(), settings)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
