"""Which model answers a request with an image: the one that was asked, or the one that its file names for images."""

import asyncio
from collections.abc import Mapping

from pipelines.core.errors import PipelineError
from pipelines.core.geometry import nearest_resolution
from pipelines.hub import local
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.service.requests.echo import is_absent
from server.service.requests.inputs import IMAGE
from server.service.requests.numbers import as_integer
from server.service.requests.parameters import Body
from server.service.requests.sizes import SIDES, sides_of


class ImageModels:
    """The models that answer for others if a request has an image: those in the catalogue, which may be empty."""

    def __init__(self, catalogue: Mapping[str, CatalogueEntry]) -> None:
        self._catalogue = catalogue

    def answering(self, asked: CatalogueEntry, body: Body) -> CatalogueEntry:
        """The model that makes what a body asks of another one, or that one itself.

        Of two it is the one whose resolution is nearer to the body's size, among those that can make it.
        """
        if asked.image_model is None or is_absent(given := body.get(IMAGE)) or given is False:
            return asked
        size = _size(asked, body)
        nearer = nearest_resolution(*size)
        ids = [asked.image_model[nearer], *asked.image_model.values()]
        found = [entry for id_ in ids if (entry := self._catalogue.get(id_)) is not None]
        return next((entry for entry in found if _can_make(entry, size)), found[0] if found else asked)

    async def check_installed(self, entry: CatalogueEntry) -> None:
        """Raise InvalidParamsError, which says how to bring them, unless a model's weights are on this machine."""
        try:
            await asyncio.to_thread(local.locate, entry.model)
        except PipelineError:
            # not the error's own words: they have the server's paths
            raise InvalidParamsError(
                f"{IMAGE} needs the model {entry.id}, which is not installed on this server. Its operator brings it "
                f"with `paddock pull --model {entry.id}`"
            ) from None


def _can_make(entry: CatalogueEntry, size: tuple[int, int]) -> bool:
    return all(side <= (entry.api.by_name[name].maximum or 0) for name, side in zip(SIDES, size, strict=True))


def _size(asked: CatalogueEntry, body: Body) -> tuple[int, int]:
    """The width and height that a body asks for, or else the model's default ones, whatever the ratio of its image."""
    given = {name: value for name, value in body.items() if not is_absent(value)}
    sides = {name: side for name in SIDES if (side := as_integer(given.get(name))) is not None}
    defaults = {name: int(asked.api.by_name[name].default or 0) for name in SIDES}
    try:
        chosen = {**defaults, **sides_of(asked, given, sides), **sides}
    except InvalidParamsError:
        # the model that answers refuses it, in the same words
        chosen = defaults
    return chosen["width"], chosen["height"]
