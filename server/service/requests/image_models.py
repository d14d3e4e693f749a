"""Other models that a request needs: the one that answers it with an image, and the one that makes its sound."""

import asyncio
import time
from collections.abc import Mapping
from math import inf

from pipelines.core.errors import PipelineError
from pipelines.core.geometry import nearest_resolution
from pipelines.core.model import Weights
from pipelines.hub import local
from pipelines.models.api_table import ApiSpec
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.service.requests.echo import EXTEND, IMAGE_MODE, is_absent
from server.service.requests.inputs import IMAGE
from server.service.requests.parameters import Body
from server.service.requests.values.numbers import as_integer
from server.service.requests.values.sizes import SIDES, check_pixels, sides_of, sides_of_image

_FRESH_SECONDS = 10.0


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
        if not await asyncio.to_thread(_is_here, model):
            # not the error's own words: they have the server's paths
            raise InvalidParamsError(
                f"{name} needs the model {model.id}, which is not installed on this server. Its operator brings it "
                f"with `paddock pull --model {model.id}`"
            )


class Sounds:
    """Which models make sounds: those whose model for sounds is on this machine, or (`everywhere`) all that have one.

    On a cluster its hosts have them.
    """

    def __init__(self, catalogue: Mapping[str, CatalogueEntry], *, everywhere: bool) -> None:
        self._sounds = {sound.id: sound for entry in catalogue.values() if (sound := entry.model.sound) is not None}
        self._everywhere = everywhere
        self._here: set[str] = set()
        self._looked_at = -inf

    async def refresh(self) -> None:
        """Look again which are here, unless that was done a moment ago."""
        if self._everywhere or time.monotonic() - self._looked_at < _FRESH_SECONDS:
            return
        self._here = await asyncio.to_thread(lambda: {id_ for id_, sound in self._sounds.items() if _is_here(sound)})
        # only now: who asks meanwhile must not go by the look before
        self._looked_at = time.monotonic()

    def makes(self, entry: CatalogueEntry) -> bool:
        """Whether videos of a model may have a sound that is made, as of the last look."""
        sound = entry.model.sound
        return sound is not None and (self._everywhere or sound.id in self._here)


def _is_here(model: Weights) -> bool:
    try:
        local.locate(model)
    except PipelineError:
        return False
    return True


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
