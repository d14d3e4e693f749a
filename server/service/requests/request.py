"""What a client sent, and what of it is an input."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.models.catalogue import CatalogueEntry
from server.core.generation import Origin
from server.service.loras import AvailableLora
from server.service.requests.echo import EXTEND, is_absent
from server.service.requests.inputs import INPUTS, UPLOAD_PREFIX
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
    files: Mapping[str, Path]
    loras: Mapping[str, AvailableLora]

    @property
    def digest(self) -> str:
        """What two requests have in common if they are the same request."""
        body = {name: _named(value) if name in INPUTS else value for name, value in self.body.items()}
        return hashlib.sha256(json.dumps([self.origin, body], sort_keys=True).encode()).hexdigest()

    def named(self, *names: str) -> list[str]:
        """Which of these parameters the body has. Null, an empty array and false count as absent."""
        return [name for name in names if not is_absent(value := self.body.get(name)) and value is not False]

    @property
    def has_inputs(self) -> bool:
        """Whether the video begins with or is made of anything but words."""
        return bool(self.named(*INPUTS, EXTEND))


def _named(value: Any) -> Any:
    """What an input's value stands for: an upload of the same file has another id each time."""
    if isinstance(value, str) and value.strip().startswith(UPLOAD_PREFIX):
        # without the time and the signature
        return value.strip().rsplit(".", 2)[0]
    return value
