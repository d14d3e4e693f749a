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
from server.service.requests.image_models import ImageModels
from server.service.requests.inputs import IMAGE, InputImage, InputImages
from server.service.requests.uploads import PREFIX, Uploads
from server.service.requests.urls import checked_url


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent: the body, the files it brought by their parameters, and the LoRAs that it may name.

    `entry` is the model that makes the video, `asked` the one that the body names.
    """

    tenant: str
    entry: CatalogueEntry
    asked: CatalogueEntry
    body: parameters.Body
    origin: Origin
    inputs: Mapping[str, Path]
    loras: Mapping[str, AvailableLora]


class GenerationBuilder:
    """Builds generations. `accepted_by` is the name of this server, `shares` whether it shares its records."""

    def __init__(
        self,
        settings: Settings,
        images: InputImages,
        image_models: ImageModels,
        uploads: Uploads,
        accepted_by: str | None,
        *,
        shares: bool,
    ) -> None:
        self._settings = settings
        self._image_models = image_models
        self._images = images
        self._uploads = uploads
        self._accepted_by = accepted_by
        self._shares = shares

    async def build(self, request: Request) -> list[Generation]:
        """Build the generations of a request, and keep its image. They await an image that has to be fetched.

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
        """Whether requests for a model may have an image, also if another model answers these.

        The demo's weights take none.
        """
        if self._settings.demo:
            return False
        has_pipeline = family_of(entry.model.pipeline_class).image_pipeline is not None
        return entry.image_model is not None or (has_pipeline and "image" in entry.api.input)

    def needs_image(self, entry: CatalogueEntry) -> bool:
        """Whether requests for a model must have an image."""
        family = family_of(entry.model.pipeline_class)
        return self.takes_image(entry) and family.images(None).first is InputUse.REQUIRED

    def complete(self, entry: CatalogueEntry, generation: Generation, image: InputImage) -> Generation:
        """A generation that awaited its image, with the image."""
        assert generation.params is not None, "a generation without valid parameters awaits nothing"
        return replace(
            generation,
            params=parameters.with_image(entry, generation.parameters, generation.params, image),
            warnings=generation.warnings + image.warnings,
            awaited_input=None,
        )

    async def _image(self, request: Request) -> InputImage | str | None:
        """Check and keep the image of a request, or check its URL. What takes less time is checked first."""
        if echo.is_absent(given := request.body.get(IMAGE)) or given is False:
            if self.needs_image(request.entry):
                raise InvalidParamsError(
                    f"{IMAGE} is required: {request.entry.id} makes videos that begin with an image"
                )
            return None
        if not self.takes_image(request.entry):
            raise InvalidParamsError(f"{IMAGE} is not supported by {request.asked.id}")
        if not isinstance(given, str):
            raise InvalidParamsError(f"{IMAGE} must be a string: an image in base64, a data URL, a URL or an upload")
        if self._shares:
            raise InvalidParamsError(f"{IMAGE} is not supported by servers that share their database yet")
        self._params(request, request.body, None)
        if request.entry is not request.asked:
            await self._image_models.check_installed(request.entry)
        if IMAGE in request.inputs:
            return await self._images.keep(request.tenant, request.inputs)
        if (reference := given.strip()).startswith(PREFIX):
            return await self._uploads.find(request.tenant, reference)
        return checked_url(given, self._settings)

    def _generation(
        self, request: Request, body: parameters.Body, kept: Mapping[str, object], image: InputImage | str | None
    ) -> Generation:
        generation = self._new(request, body, kept)
        known = image if isinstance(image, InputImage) else None
        try:
            params = self._params(request, body, known)
        except InvalidParamsError as error:
            if request.origin is Origin.SYNC:
                raise
            return self._failed(generation, error)
        if isinstance(image, str):
            # kept whatever else of the request is not: the size is decided by them when the image is known
            needed = {name: body[name] for name in parameters.SIZES if not echo.is_absent(body.get(name))}
            shown = {**generation.parameters, **needed, IMAGE: image}
            return replace(generation, params=params, parameters=shown, awaited_input=image)
        return replace(generation, params=params, warnings=generation.warnings + (known.warnings if known else ()))

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
            asked_model=None if request.entry is request.asked else request.asked.id,
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
