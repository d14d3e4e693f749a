"""Builds the generations that a request asks for, before they are recorded."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from pipelines.core.request import VideoParams
from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.family import InputUse
from pipelines.models.registry import family_of
from server.core.errors import InvalidParamsError
from server.core.generation import Generation, Origin, Status
from server.core.settings import Settings
from server.service.loras import AvailableLora
from server.service.requests import echo, parameters
from server.service.requests.inputs import IMAGE, InputImage, InputImages


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent: the body, the files it brought by their parameters, and the LoRAs that it may name."""

    tenant: str
    entry: CatalogueEntry
    body: parameters.Body
    origin: Origin
    inputs: Mapping[str, Path]
    loras: Mapping[str, AvailableLora]


class GenerationBuilder:
    """Builds generations. `accepted_by` is the name of this server, `shares` whether it shares its records."""

    def __init__(self, settings: Settings, images: InputImages, accepted_by: str | None, *, shares: bool) -> None:
        self._settings = settings
        self._images = images
        self._accepted_by = accepted_by
        self._shares = shares

    async def build(self, request: Request) -> list[Generation]:
        """Build the generations of a request, and keep its image.

        On the sync route invalid parameters raise InvalidParamsError; on the queue they give generations that have
        failed with the same sentence. Raises InvalidParamsError for the number of them, and UnavailableError.
        """
        count = parameters.num_generations(request.body, self._settings.max_num_generations)
        base = parameters.random_seed()
        bodies = [parameters.with_seed(request.body, base, offset) for offset in range(count)]
        kept = echo.echo(request.entry, bodies[0], self._settings.max_prompt_chars)
        try:
            image = await self._image(request)
        except InvalidParamsError as error:
            if request.origin is Origin.SYNC:
                raise
            return [self._failed(self._new(request, body, kept), error) for body in bodies]
        return [self._generation(request, body, kept, image) for body in bodies]

    def takes_image(self, entry: CatalogueEntry) -> bool:
        """Whether requests for a model may have an image. The demo's weights take none."""
        has_pipeline = family_of(entry.model.pipeline_class).image_pipeline is not None
        return has_pipeline and "image" in entry.api.input and not self._settings.demo

    def needs_image(self, entry: CatalogueEntry) -> bool:
        """Whether requests for a model must have an image."""
        family = family_of(entry.model.pipeline_class)
        return self.takes_image(entry) and family.images(None).first is InputUse.REQUIRED

    async def _image(self, request: Request) -> InputImage | None:
        """Check and keep the image of a request. What takes less time is checked first."""
        if echo.is_absent(given := request.body.get(IMAGE)) or given is False:
            if self.needs_image(request.entry):
                raise InvalidParamsError(
                    f"{IMAGE} is required: {request.entry.id} makes videos that begin with an image"
                )
            return None
        if not self.takes_image(request.entry):
            raise InvalidParamsError(f"{IMAGE} is not supported by {request.entry.id}")
        if IMAGE not in request.inputs:
            raise InvalidParamsError(f"{IMAGE} must be a string: an image in base64, or a data URL")
        if self._shares:
            raise InvalidParamsError(f"{IMAGE} is not supported by servers that share their database yet")
        self._params(request, request.body, None)
        return await self._images.keep(request.tenant, request.inputs)

    def _generation(
        self, request: Request, body: parameters.Body, kept: Mapping[str, object], image: InputImage | None
    ) -> Generation:
        generation = self._new(request, body, kept)
        try:
            params = self._params(request, body, image)
        except InvalidParamsError as error:
            if request.origin is Origin.SYNC:
                raise
            return self._failed(generation, error)
        warnings = generation.warnings + (() if image is None else image.warnings)
        return replace(generation, params=params, warnings=warnings)

    def _params(self, request: Request, body: parameters.Body, image: InputImage | None) -> VideoParams:
        settings = self._settings
        return parameters.resolve(
            request.entry, body, settings.max_prompt_chars, settings.step_cache, request.loras, image
        )

    def _new(self, request: Request, body: parameters.Body, kept: Mapping[str, object]) -> Generation:
        """A generation of a request; `kept` is what is echoed of it, which differs by its seed only."""
        return Generation(
            id=str(uuid4()),
            tenant=request.tenant,
            origin=request.origin,
            model=request.entry.id,
            status=Status.QUEUED,
            parameters={name: body["seed"] if name == "seed" else value for name, value in kept.items()},
            enqueued_at=time.time(),
            accepted_by=self._accepted_by,
            target_namespace=echo.text(body, "target_namespace"),
            target_repo=echo.text(body, "target_repo"),
            target_directory=echo.text(body, "target_directory"),
            warnings=echo.warnings_about(request.entry, body),
        )

    @staticmethod
    def _failed(generation: Generation, error: InvalidParamsError) -> Generation:
        return replace(generation, status=Status.FAILED, error_message=str(error), completed_at=generation.enqueued_at)
