"""Fetches the inputs that recorded generations await, and lets these be claimed."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import (
    InvalidParamsError,
    PaddockError,
    QueueFullError,
    RecordsUnavailableError,
    UnavailableError,
    reason,
)
from server.core.events import Broker
from server.core.generation import Generation
from server.core.settings.sections import SecuritySettings
from server.core.turns import Turns
from server.media.fetch.download import AUDIO_FILE, IMAGE_FILE, VIDEO_FILE, Downloader
from server.media.fetch.exchange import TemporaryError
from server.media.limits import RefusedInputError
from server.service.awaiting.work import AwaitedWork, GivenUpError, Job
from server.service.requests.building import GenerationBuilder
from server.service.requests.image_models import as_asked
from server.service.requests.inputs import AUDIO_NAMES, IMAGE, LAST_IMAGES, VIDEO, Input, InputFiles
from server.service.requests.urls import checked_url
from server.storage.db.statements.awaited_inputs import AwaitedInputs

MAX_AT_ONCE = 8
MAX_AT_ONCE_OF_TENANT = 2
"""So many inputs are fetched at once, in all and for one tenant."""

RETRY_SECONDS = (2.0, 10.0)
"""The pauses before an input is asked for again, if it could not be had for a reason that may pass."""

_PARAMETERS = {"image": IMAGE, "last_image": LAST_IMAGES[0], "video": VIDEO, "audio": AUDIO_NAMES[0]}
"""The parameters by the fields that name their inputs."""

_KINDS = {VIDEO: VIDEO_FILE, AUDIO_NAMES[0]: AUDIO_FILE}
"""What the URLs of parameters that are no images should have."""


class AwaitedUrl(NamedTuple):
    """A URL that generations of a tenant await as the parameter `name`."""

    tenant: str
    name: str
    url: str


class InputFetcher(AwaitedWork[AwaitedUrl]):
    """Fetches inputs, each URL once for all that await it at a time."""

    log = logging.getLogger("paddock.inputs")
    name = "input"

    def __init__(
        self,
        awaited_inputs: AwaitedInputs,
        files: InputFiles,
        builder: GenerationBuilder,
        catalogue: Mapping[str, CatalogueEntry],
        broker: Broker,
        on_arrived: Callable[[], None],
        settings: SecuritySettings,
        downloader: Downloader | None = None,
    ) -> None:
        super().__init__(awaited_inputs, broker, on_arrived)
        self._files = files
        self._builder = builder
        self._catalogue = catalogue
        self._settings = settings
        self._downloader = downloader or Downloader()
        self._turns = Turns(MAX_AT_ONCE, MAX_AT_ONCE_OF_TENANT)

    async def _awaited(self) -> Iterable[tuple[AwaitedUrl, str]]:
        found = await self._awaited_inputs.awaited()
        return [(AwaitedUrl(each.tenant, _PARAMETERS[each.field], each.url), each.generation_id) for each in found]

    async def _complete(self, job: Job[AwaitedUrl]) -> Sequence[Generation]:
        try:
            kept = await self._input(job.what)
            waiting = await self._awaited_inputs.awaiting(job.what.url, sorted(job.ids))
            return [self._with(generation, kept) for generation in waiting]
        except RecordsUnavailableError:
            raise
        except UnavailableError as error:
            # no fault of the request: it waits, as it would for the records, and is looked at again
            self.log.warning("%s of waiting generations is fetched again later: %s", job.what.name, error)
            return []
        except PaddockError as error:
            raise GivenUpError(str(error)) from error

    def _fault(self, what: AwaitedUrl) -> str:
        return f"The server failed to fetch {what.name}. Its log says more."

    def _with(self, generation: Generation, kept: Input) -> Generation:
        entry = self._catalogue.get(generation.model)
        if entry is None:
            raise InvalidParamsError(f"Model not found: {generation.model}")
        if (asked := self._catalogue.get(generation.asked_model or "")) is not None:
            entry = as_asked(entry, asked)
        return self._builder.complete(entry, generation, kept)

    async def _input(self, what: AwaitedUrl) -> Input:
        """Fetch and keep an input. Raises InvalidParamsError, QueueFullError or UnavailableError."""
        for pause in (*RETRY_SECONDS, None):
            try:
                # the settings may have changed since it was recorded
                checked_url(what.name, what.url, self._settings)
                return await self._fetch(what)
            except TemporaryError as error:
                if pause is None:
                    raise InvalidParamsError(f"{what.name} {error}.") from None
            except RefusedInputError as error:
                raise InvalidParamsError(f"{what.name} {error}.") from None
            except (QueueFullError, UnavailableError):
                if pause is None:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _fetch(self, what: AwaitedUrl) -> Input:
        try:
            with tempfile.TemporaryDirectory(prefix="fetched-", ignore_cleanup_errors=True) as folder:
                target = Path(folder) / "input"
                # not while it is decoded: a video takes long, and others may be fetched meanwhile
                async with self._turns.turn(what.tenant):
                    await self._downloader.download(what.url, target, _KINDS.get(what.name, IMAGE_FILE))
                return await self._files.keep(what.tenant, what.name, target)
        except OSError as error:
            raise UnavailableError(f"The server cannot keep inputs: {reason(error)}.", 5) from error
