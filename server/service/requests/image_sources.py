"""The images of a request: whether its model takes them, and where they come from."""

from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.family import ImageInputs, InputUse
from pipelines.models.registry import family_of
from server.core.errors import InvalidParamsError
from server.core.settings import Settings
from server.service.requests.inputs import IMAGE, LAST_IMAGES, InputImage, InputImages
from server.service.requests.request import GivenImages, Request
from server.service.requests.uploads import PREFIX, Uploads
from server.service.requests.urls import checked_url


def images_of(entry: CatalogueEntry) -> ImageInputs:
    """Which images requests for a model may or must have. A file that describes no weights may have any."""
    family = family_of(entry.model.pipeline_class)
    return family.images(None if entry.model.shape is None else family.shape(entry.model.shape))


class ImageSources:
    """Checks and keeps the images of requests. `shares` is whether the server shares its records."""

    def __init__(self, settings: Settings, images: InputImages, uploads: Uploads, *, shares: bool) -> None:
        self._settings = settings
        self._images = images
        self._uploads = uploads
        self._shares = shares

    def allowed(self, entry: CatalogueEntry) -> ImageInputs:
        """Which images requests for a model may or must have, also if another model answers these.

        The demo's weights take none.
        """
        if self._settings.demo:
            return ImageInputs()
        if entry.image_model is not None:
            return ImageInputs(InputUse.OPTIONAL)
        if "image" not in entry.api.input:
            return ImageInputs()
        return images_of(entry)

    def check(self, request: Request) -> None:
        """Raise InvalidParamsError unless a request has the images that its model needs, and no others."""
        allowed = self.allowed(request.entry)
        last = request.named(*LAST_IMAGES)
        if len(last) > 1:
            raise InvalidParamsError(f"{' and '.join(last)} are the same parameter: give one of them")
        for names, use, what in ((request.named(IMAGE), allowed.first, "begin"), (last, allowed.last, "end")):
            if names and use is InputUse.NONE:
                raise InvalidParamsError(f"{names[0]} is not supported by {request.asked.id}")
            if not names and use is InputUse.REQUIRED:
                name = IMAGE if what == "begin" else LAST_IMAGES[0]
                raise InvalidParamsError(
                    f"{name} is required: {request.asked.id} makes videos that {what} with an image"
                )
        if last and not request.named(IMAGE):
            raise InvalidParamsError(f"{last[0]} needs {IMAGE}: a video that ends with an image begins with one")
        for name in request.images:
            if not isinstance(request.body[name], str):
                raise InvalidParamsError(f"{name} must be a string: an image in base64, a data URL, a URL or an upload")
            if self._shares:
                raise InvalidParamsError(f"{name} is not supported by servers that share their database yet")

    async def take(self, request: Request) -> GivenImages:
        """Keep the images of a checked request, or check their URLs.

        Raises InvalidParamsError, QueueFullError or UnavailableError.
        """
        taken = [await self._take(request, name) for name in request.images]
        return GivenImages(*taken)

    async def _take(self, request: Request, name: str) -> InputImage | str:
        if name in request.inputs:
            return await self._images.keep(request.tenant, name, request.inputs[name])
        reference = str(request.body[name]).strip()
        if reference.startswith(PREFIX):
            return await self._uploads.find(request.tenant, name, reference)
        return checked_url(name, reference, self._settings)
