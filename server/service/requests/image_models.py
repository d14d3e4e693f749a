"""Which model answers a request with an image: the one that was asked, or the one that its file names for images."""

import asyncio
from collections.abc import Mapping

from pipelines.core.errors import PipelineError
from pipelines.core.geometry import Resolution, nearest_resolution
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

        Of two it is the one for the body's resolution; a side that is out of its limits says nothing.
        """
        if asked.image_model is None or is_absent(given := body.get(IMAGE)) or given is False:
            return asked
        return self._catalogue.get(asked.image_model[_resolution(asked, body)], asked)

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


def _resolution(asked: CatalogueEntry, body: Body) -> Resolution:
    given = {name: value for name, value in body.items() if not is_absent(value)}
    sides = {name: side for name in SIDES if (side := as_integer(given.get(name))) is not None}
    defaults = {name: int(asked.api.by_name[name].default or 0) for name in SIDES}
    try:
        chosen = {**defaults, **sides_of(asked, given, sides), **sides}
    except InvalidParamsError:
        # the model that answers refuses it, in the same words
        chosen = defaults
    return nearest_resolution(chosen["width"], chosen["height"])
