"""URLs of videos, stills, archives, inputs and previews."""

from server.core.events import Live
from server.core.generation import Generation
from server.storage.files.inputs import Inputs, input_keys
from server.storage.files.stills import SPRITESHEET, THUMBNAIL
from server.storage.files.videos import Videos

ARCHIVE_SUFFIX = ".zip"


class Links:
    """Builds the URLs of videos, stills, archives, inputs and previews on a base URL without a trailing slash."""

    def __init__(self, base: str, videos: Videos, inputs: Inputs) -> None:
        self.base = base
        self._videos = videos
        self._inputs = inputs

    def video(self, key: str | None) -> str | None:
        """Return the signed URL of a finished video, None for None."""
        return None if key is None else f"{self.base}/api/files/{self._videos.links.sign(key)}"

    def archive(self, token: str) -> str:
        """Return the URL of an archive by its signed token."""
        return f"{self.base}/api/files/archives/{token}{ARCHIVE_SUFFIX}"

    def stills(self, generation: Generation) -> tuple[str | None, str | None]:
        """Return the signed URLs of the thumbnail and the spritesheet of a video, None while it has none."""
        if generation.artifact is None or not generation.has_stills:
            return None, None
        tokens = self._videos.stills.tokens(generation.artifact)
        thumbnail, spritesheet = (f"{self.base}/api/files/stills/{tokens[name]}" for name in (THUMBNAIL, SPRITESHEET))
        return thumbnail, spritesheet

    def inputs(self, generation: Generation) -> dict[str, str]:
        """Return the signed URLs of a generation's inputs, by the fields of its parameters that name them."""
        keys = input_keys(generation.tenant, generation.params)
        return {name: f"{self.base}/api/files/inputs/{self._inputs.links.sign(key)}" for name, key in keys.items()}

    def preview(self, generation_id: str, live: Live | None) -> str | None:
        """Return the URL of a preview, None if there is none. It changes with each preview and needs the key."""
        if live is None or live.preview is None:
            return None
        return f"{self.base}/api/ai/queue/{generation_id}/preview?step={live.preview}"
