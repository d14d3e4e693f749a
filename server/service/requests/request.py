"""What a client sent, and what of it is an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.models.catalogue import CatalogueEntry
from server.core.generation import Origin
from server.service.loras import AvailableLora
from server.service.requests.echo import is_absent
from server.service.requests.inputs import IMAGE, LAST_IMAGES, InputImage
from server.service.requests.parameters import Body


@dataclass(frozen=True, slots=True)
class Request:
    """The body, the files it brought by their parameters, and the LoRAs that it may name.

    `entry` is the model that makes the video, `asked` the one that the body names.
    """

    tenant: str
    entry: CatalogueEntry
    asked: CatalogueEntry
    body: Body
    origin: Origin
    inputs: Mapping[str, Path]
    loras: Mapping[str, AvailableLora]

    def named(self, *names: str) -> list[str]:
        """Which of these parameters the body has. Null, an empty array and false count as absent."""
        return [name for name in names if not is_absent(value := self.body.get(name)) and value is not False]

    @property
    def images(self) -> list[str]:
        """The parameters of the body that are images, the one that the video begins with first."""
        return self.named(IMAGE, *LAST_IMAGES)


@dataclass(frozen=True, slots=True)
class GivenImages:
    """The images that a request's video begins and ends with: kept ones, or URLs that have yet to be fetched."""

    first: InputImage | str | None = None
    last: InputImage | str | None = None

    @property
    def kept(self) -> list[InputImage]:
        """Those that are kept."""
        return [image for image in (self.first, self.last) if isinstance(image, InputImage)]

    @property
    def urls(self) -> dict[str, str]:
        """Those that have yet to be fetched, by their parameters, in the order in which they are."""
        given = {IMAGE: self.first, LAST_IMAGES[0]: self.last}
        return {name: image for name, image in given.items() if isinstance(image, str)}
