"""URLs of videos, images and previews."""

from server.core.events import Live
from server.storage.files.inputs import Inputs, input_key
from server.storage.files.videos import Videos


class Links:
    """Builds the URLs of videos, images and previews on a base URL without a trailing slash."""

    def __init__(self, base: str, videos: Videos, inputs: Inputs) -> None:
        self.base = base
        self._videos = videos
        self._inputs = inputs

    def video(self, key: str | None) -> str | None:
        """Return the signed URL of a finished video, None for None."""
        return None if key is None else f"{self.base}/api/files/{self._videos.links.sign(key)}"

    def image(self, tenant: str, digest: str) -> str:
        """Return the signed URL of a tenant's image, by its digest."""
        return f"{self.base}/api/files/inputs/{self._inputs.links.sign(input_key(tenant, digest))}"

    def preview(self, generation_id: str, live: Live | None) -> str | None:
        """Return the URL of a preview, None if there is none. It changes with each preview and needs the key."""
        if live is None or live.preview is None:
            return None
        return f"{self.base}/api/ai/queue/{generation_id}/preview?step={live.preview}"
