"""Which model answers a request with an image: the one that was asked, or the one that its file names for images."""

import asyncio
from collections.abc import Mapping

from pipelines.core.errors import PipelineError
from pipelines.core.geometry import nearest_resolution
from pipelines.core.model import Weights
from pipelines.hub import local
from pipelines.models.api_table import ApiSpec
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.service.numbers import as_integer
from server.service.requests.echo import EXTEND, IMAGE_MODE, is_absent
from server.service.requests.inputs import IMAGE
from server.service.requests.parameters import Body
from server.service.requests.sizes import SIDES, check_pixels, sides_of, sides_of_image


class ImageModels:
    """The models that answer for others if a request has an image: those in the catalogue, which may be empty."""

    def __init__(self, catalogue: Mapping[str, CatalogueEntry]) -> None:
        self._catalogue = catalogue

    def answering(self, asked: CatalogueEntry, body: Body) -> CatalogueEntry:
        """The model that makes what a body asks of another one, or that one itself: so `image_mode` asks.

        Of two it is the one whose resolution is nearer to the body's size, among those that can make it.
        """
        pictures = [value for name in (IMAGE, EXTEND) if not is_absent(value := body.get(name)) and value is not False]
        if asked.image_model is None or not pictures:
            return asked
        if not is_absent(body.get(IMAGE_MODE)):
            return asked
        given = {name: value for name, value in body.items() if not is_absent(value)}
        nearer = nearest_resolution(*(_size(asked, given) or asked.api.size("default")[:2]))
        ids = [asked.image_model[nearer], *asked.image_model.values()]
        found = [entry for id_ in ids if (entry := self._catalogue.get(id_)) is not None]
        # what none can make is refused by the nearer one
        chosen = next((entry for entry in found if _size(entry, given) is not None), found[0] if found else None)
        return asked if chosen is None else as_asked(chosen, asked)

    async def check_installed(self, model: Weights, name: str) -> None:
        """Raise InvalidParamsError, which says how to bring them, unless a model's weights are on this machine.

        The parameter `name` needs that model.
        """
        try:
            await asyncio.to_thread(local.locate, model)
        except PipelineError:
            # not the error's own words: they have the server's paths
            raise InvalidParamsError(
                f"{name} needs the model {model.id}, which is not installed on this server. Its operator brings it "
                f"with `paddock pull --model {model.id}`"
            ) from None


def as_asked(entry: CatalogueEntry, asked: CatalogueEntry) -> CatalogueEntry:
    """The model that answers, with the size and the length that the one that was asked makes by default."""
    usual, largest = asked.api.size("default"), entry.api.size("maximum")
    defaults = {
        name: default
        for name, default, most in zip((*SIDES, "num_frames"), usual, largest, strict=True)
        if default <= most
    }
    parameters = [
        each.model_copy(update={"default": defaults[each.name]}) if each.name in defaults else each
        for each in entry.api.parameters
    ]
    # not a copy: the table keeps what it has computed of its parameters
    fields = {name: getattr(entry.api, name) for name in ApiSpec.model_fields}
    return entry.model_copy(update={"api": ApiSpec(**fields | {"parameters": parameters})})


def _size(entry: CatalogueEntry, given: Body) -> tuple[int, int] | None:
    """The width and height that parameters ask of a model, whatever the ratio of the image; None beyond its limits."""
    sides = {name: side for name in SIDES if (side := as_integer(given.get(name))) is not None}
    if any(not 1 <= side <= (entry.api.by_name[name].maximum or 0) for name, side in sides.items()):
        return None
    width, height, _ = entry.api.size("default")
    try:
        if "aspect_ratio" in given:
            found = sides_of(entry, given, sides)
        else:
            found = sides_of_image(entry, given, sides, (width, height))
        size = {"width": width, "height": height, **found, **sides}
        check_pixels(entry, size["width"], size["height"])
    except InvalidParamsError:
        return None
    return size["width"], size["height"]
