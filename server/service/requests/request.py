"""What a client sent: which model and LoRAs it names, and what of it is an input."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError, ModelNotFoundError
from server.core.generation import Origin
from server.service.loras import AvailableLora, LoraCatalogue
from server.service.requests.echo import EXTEND, is_absent
from server.service.requests.image_models import ImageModels
from server.service.requests.inputs import INPUTS, UPLOAD_PREFIX
from server.service.requests.parameters import Body


@dataclass(frozen=True, slots=True)
class Request:
    """The body, the files it brought by their parameters, and the LoRAs that it may name.

    `entry` is the model that makes the video, `asked` the one that the body names. `is_strict`: invalid parameters are
    refused, and not recorded as a generation that has failed. `notes` are what the server says of it in its rows.
    """

    tenant: str
    entry: CatalogueEntry
    asked: CatalogueEntry
    body: Body
    origin: Origin
    files: Mapping[str, Path]
    loras: Mapping[str, AvailableLora]
    is_strict: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What two requests have in common if they are the same request."""
        body = {name: _named(value) if name in INPUTS else value for name, value in self.body.items()}
        parts = [self.origin, body, *([dict(self.notes)] if self.notes else [])]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def named(self, *names: str) -> list[str]:
        """Which of these parameters the body has. Null, an empty array and false count as absent."""
        return [name for name in names if not is_absent(value := self.body.get(name)) and value is not False]

    @property
    def has_inputs(self) -> bool:
        """Whether the video begins with or is made of anything but words."""
        return bool(self.named(*INPUTS, EXTEND))


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

    def answering(self, body: Body) -> CatalogueEntry:
        """The model that makes the video of a body. Raises InvalidParamsError or ModelNotFoundError."""
        return self._image_models.answering(self.entry(body.get("model")), body)

    async def read(
        self,
        tenant: str,
        body: Body,
        origin: Origin,
        files: Mapping[str, Path],
        *,
        is_strict: bool = True,
        notes: Mapping[str, str] | None = None,
    ) -> Request:
        """The request of a body with its files. Raises InvalidParamsError, ModelNotFoundError or UnavailableError."""
        asked, entry = self.entry(body.get("model")), self.answering(body)
        loras = await asyncio.to_thread(self._loras.of, entry.id) if body.get("loras") else {}
        return Request(tenant, entry, asked, body, origin, files, loras, is_strict, notes or {})


def _named(value: Any) -> Any:
    """What an input's value stands for: an upload of the same file has another id each time."""
    if isinstance(value, str) and value.strip().startswith(UPLOAD_PREFIX):
        # without the time and the signature
        return value.strip().rsplit(".", 2)[0]
    return value
