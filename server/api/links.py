"""The addresses of videos and previews."""

from server.core.events import Live
from server.storage.files.videos import Videos


class Links:
    """Makes the addresses of videos and previews, on the request's own base or the `public_url` setting."""

    def __init__(self, base: str, videos: Videos) -> None:
        self.base = base
        self._videos = videos

    def video(self, key: str | None) -> str | None:
        """The signed address of a finished file."""
        return None if key is None else f"{self.base}/api/files/{self._videos.sign(key)}"

    def preview(self, generation_id: str, live: Live | None) -> str | None:
        """The address of a generation's picture, another one for every picture; for its owner's key."""
        if live is None or live.preview is None:
            return None
        return f"{self.base}/api/ai/queue/{generation_id}/preview?step={live.preview}"
