"""The videos of finished generations, which requests may continue."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping

from pipelines.core.geometry import Geometry, Grid
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import GenerationNotFoundError, InvalidParamsError, UnavailableError, reason
from server.core.generation import Generation
from server.media.limits import VIDEO_BYTES
from server.service.requests.echo import EXTEND, JOINED_FRAMES
from server.service.requests.inputs import AUDIO_NAMES, InputFiles, InputVideo
from server.storage.files.videos import Videos

_EVEN = Grid(1, 1, 1)

_SILENT = f"{EXTEND}: the sound of that video is left out. {AUDIO_NAMES[0]} gives both one."


def frames_in(generation: Generation) -> int:
    """The length of a generation's video, with the one that it continues. Its parameters are valid."""
    assert generation.params is not None, "without them it has no video"
    joined = generation.parameters.get(JOINED_FRAMES)
    # an earlier version did not keep it
    return joined if isinstance(joined, int) else generation.params.num_frames


class FinishedVideos:
    """Finds the videos of a tenant's generations, and keeps them for those that continue them."""

    def __init__(
        self,
        find: Callable[[str, str], Awaitable[Generation]],
        videos: Videos,
        files: InputFiles,
        catalogue: Mapping[str, CatalogueEntry],
    ) -> None:
        self._find = find
        self._videos = videos
        self._files = files
        self._catalogue = catalogue

    async def keep(self, tenant: str, generation_id: str, fps: int) -> InputVideo:
        """Keep the video of a generation, for one of `fps` frames a second.

        Raises InvalidParamsError, QueueFullError or UnavailableError.
        """
        try:
            generation = await self._find(tenant, generation_id)
        except GenerationNotFoundError:
            raise InvalidParamsError(f"{EXTEND}: there is no such generation") from None
        params, key = generation.params, generation.artifact
        try:
            found = {} if key is None else await self._videos.storage.stat([key])
        except OSError as error:
            raise UnavailableError(f"The video cannot be read: {reason(error)}.", 5) from error
        if params is None or key is None or key not in found:
            raise InvalidParamsError(f"{EXTEND}: generation {generation.id} is {generation.status} and has no video")
        entry = self._catalogue.get(generation.model)
        if entry is None or entry.model.fps != fps:
            rate = "an unknown rate" if entry is None else f"{entry.model.fps} frames a second"
            raise InvalidParamsError(f"{EXTEND}: the video of {generation.model} has {rate}, and the new one {fps}")
        size = found[key].size
        if size > VIDEO_BYTES:
            raise InvalidParamsError(f"{EXTEND}: the video must have at most {VIDEO_BYTES // 2**20} MB")
        try:
            digest = await self._digest(key)
            await self._files.keep_file(tenant, digest, self._videos.storage.open(key), size)
        except OSError as error:
            raise UnavailableError(f"The video cannot be read: {reason(error)}.", 5) from error
        made = Geometry.fit(params.width, params.height, params.num_frames, _EVEN)
        left_out = (_SILENT,) if generation.has_audio else ()
        return InputVideo(digest, made.width, made.height, frames_in(generation), fps, left_out)

    async def _digest(self, key: str) -> str:
        digest = hashlib.sha256()
        async for chunk in self._videos.storage.open(key):
            digest.update(chunk)
        return digest.hexdigest()
