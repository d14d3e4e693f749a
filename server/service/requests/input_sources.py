"""The inputs of a request: whether its model takes them, and where they come from."""

from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.family import ImageInputs, InputUse
from pipelines.models.registry import family_of
from server.core.errors import InvalidParamsError
from server.core.settings.settings import Settings
from server.service.requests.echo import EXTEND, IMAGE_MODE
from server.service.requests.finished import FinishedVideos
from server.service.requests.inputs import (
    AUDIO_NAMES,
    IMAGE,
    INPUTS,
    LAST_IMAGES,
    UPLOAD_PREFIX,
    VIDEO,
    GivenInputs,
    Input,
    InputAudio,
    InputFiles,
    Picture,
)
from server.service.requests.request import Request
from server.service.requests.uploads import Uploads
from server.service.requests.urls import checked_url


def images_of(entry: CatalogueEntry) -> ImageInputs:
    """Which images requests for a model may or must have. A file that describes no weights may have any."""
    family = family_of(entry.model.pipeline_class)
    return family.images(None if entry.model.shape is None else family.shape(entry.model.shape))


class InputSources:
    """Checks and keeps the inputs of requests. `keeps`: inputs are kept where they are needed."""

    def __init__(
        self, settings: Settings, files: InputFiles, uploads: Uploads, finished: FinishedVideos, *, keeps: bool
    ) -> None:
        self._finished = finished
        self._settings = settings
        self._files = files
        self._uploads = uploads
        self._keeps = keeps

    def images(self, entry: CatalogueEntry) -> ImageInputs:
        """Which images requests for a model may or must have, also if another model answers these.

        The demo's weights are for text.
        """
        if self._settings.demo:
            return ImageInputs()
        if entry.image_model is not None:
            return ImageInputs(InputUse.OPTIONAL)
        if "image" not in entry.api.input:
            return ImageInputs()
        return images_of(entry)

    def takes_video(self, entry: CatalogueEntry) -> bool:
        """Whether requests for a model may have a video. The demo's weights take one."""
        family = family_of(entry.model.pipeline_class)
        if self._settings.demo:
            return True
        return family.takes_video(None if entry.model.shape is None else family.shape(entry.model.shape))

    def takes_image_mode(self, entry: CatalogueEntry) -> bool:
        """Whether requests for a model may have an `image_mode`. One that is trained to take an image needs none."""
        return self._settings.demo or images_of(entry).first is InputUse.NONE

    def check(self, request: Request) -> None:
        """Raise InvalidParamsError unless a request has the inputs that its model needs, and no others."""
        if request.named(VIDEO) and not self.takes_video(request.entry):
            raise InvalidParamsError(f"{VIDEO} is not supported by {request.asked.id}")
        if request.named(VIDEO) and (images := request.named(IMAGE, *LAST_IMAGES)):
            raise InvalidParamsError(f"{VIDEO} and {images[0]} exclude each other: give one of them")
        if request.named(EXTEND):
            self._check_extension(request)
        self._check_images(request)
        if len(named := request.named(*AUDIO_NAMES)) > 1:
            raise InvalidParamsError(f"{' and '.join(named)} are the same parameter: give one of them")
        for name in request.named(*INPUTS, EXTEND):
            if not isinstance(request.body[name], str):
                if name == EXTEND:
                    raise InvalidParamsError(f"{name} must be a string: the id of a generation")
                kind = "a video" if name == VIDEO else "a sound" if name in AUDIO_NAMES else "an image"
                raise InvalidParamsError(f"{name} must be a string: {kind} in base64, a data URL, a URL or an upload")
            if not self._keeps:
                raise InvalidParamsError(
                    f"{name} is not supported by servers that share their database, but not files (setting files_url)"
                )

    def _check_extension(self, request: Request) -> None:
        if excluded := request.named(IMAGE, VIDEO):
            raise InvalidParamsError(
                f"{EXTEND} and {excluded[0]} exclude each other: the video begins with a last frame"
            )
        if sizes := request.named("aspect_ratio", "resolution"):
            raise InvalidParamsError(f"{EXTEND} and {sizes[0]} exclude each other: the size is that of the video")

    def _check_images(self, request: Request) -> None:
        allowed = self.images(request.entry)
        if request.named(IMAGE_MODE):
            if not self.takes_image_mode(request.entry):
                raise InvalidParamsError(
                    f"{IMAGE_MODE} must be left out: {request.asked.id} is trained to take an image"
                )
            if not request.named(IMAGE, EXTEND):
                raise InvalidParamsError(f"{IMAGE_MODE} needs {IMAGE} or {EXTEND}")
            allowed = ImageInputs(InputUse.OPTIONAL)
        last = request.named(*LAST_IMAGES)
        if len(last) > 1:
            raise InvalidParamsError(f"{' and '.join(last)} are the same parameter: give one of them")
        for names, use, what in ((request.named(IMAGE, EXTEND), allowed.first, "begin"), (last, allowed.last, "end")):
            if names and use is InputUse.NONE:
                raise InvalidParamsError(f"{names[0]} is not supported by {request.asked.id}")
            if not names and use is InputUse.REQUIRED:
                name = IMAGE if what == "begin" else LAST_IMAGES[0]
                raise InvalidParamsError(
                    f"{name} is required: {request.asked.id} makes videos that {what} with an image"
                )
        if last and not request.named(IMAGE, EXTEND):
            raise InvalidParamsError(f"{last[0]} needs {IMAGE}: a video that ends with an image begins with one")

    async def take(self, request: Request) -> GivenInputs:
        """Keep the inputs of a checked request, or check their URLs.

        Raises InvalidParamsError, QueueFullError or UnavailableError.
        """
        audio = await self._sound(request)
        if request.named(VIDEO):
            return GivenInputs(video=await self._picture(request, VIDEO), audio=audio)
        images = [await self._picture(request, name) for name in request.named(IMAGE, *LAST_IMAGES)]
        if request.named(EXTEND):
            extended = await self._finished.keep(request.tenant, str(request.body[EXTEND]), request.entry.model.fps)
            return GivenInputs(last=images[0] if images else None, extended=extended, audio=audio)
        first, last, *_ = [*images, None, None]
        return GivenInputs(first, last, audio=audio)

    async def _sound(self, request: Request) -> InputAudio | str | None:
        for name in request.named(*AUDIO_NAMES):
            taken = await self._take(request, name)
            assert isinstance(taken, InputAudio | str), "uploads are of the kind that the parameter takes"
            return taken
        return None

    async def _picture(self, request: Request, name: str) -> Picture | str:
        taken = await self._take(request, name)
        assert not isinstance(taken, InputAudio), "uploads are of the kind that the parameter takes"
        return taken

    async def _take(self, request: Request, name: str) -> Input | str:
        if name in request.files:
            return await self._files.keep(request.tenant, name, request.files[name])
        reference = str(request.body[name]).strip()
        if reference.startswith(UPLOAD_PREFIX):
            return await self._uploads.find(request.tenant, name, reference)
        return checked_url(name, reference, self._settings)
