"""Reads what a body asks for, before any of it is checked but the model."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError, ModelNotFoundError
from server.core.generation import Origin
from server.service.loras import LoraCatalogue
from server.service.requests.image_models import ImageModels
from server.service.requests.parameters import Body
from server.service.requests.request import Request


class RequestReader:
    """Finds the models and LoRAs that bodies name."""

    def __init__(
        self, catalogue: Mapping[str, CatalogueEntry], image_models: ImageModels, loras: LoraCatalogue
    ) -> None:
        self._catalogue = catalogue
        self._aliases = {alias: entry for entry in catalogue.values() for alias in entry.api.aliases}
        self._image_models = image_models
        self._loras = loras

    def entry(self, model: Any) -> CatalogueEntry:
        """The model of a request; raises InvalidParamsError or ModelNotFoundError."""
        if model is None:
            raise InvalidParamsError("model must be given: the id of a model")
        if not isinstance(model, str):
            raise InvalidParamsError("model must be a string: the id of a model")
        entry = self._catalogue.get(model) or self._aliases.get(model)
        if entry is None:
            raise ModelNotFoundError(model)
        return entry

    async def read(self, tenant: str, body: Body, origin: Origin, files: Mapping[str, Path]) -> Request:
        """The request of a body with its files. Raises InvalidParamsError, ModelNotFoundError or UnavailableError."""
        asked = self.entry(body.get("model"))
        entry = self._image_models.answering(asked, body)
        loras = await asyncio.to_thread(self._loras.of, entry.id) if body.get("loras") else {}
        return Request(tenant, entry, asked, body, origin, files, loras)
