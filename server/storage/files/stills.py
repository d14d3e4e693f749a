"""Still pictures of finished videos: a thumbnail and a spritesheet of each, fetched through signed links."""

from collections import Counter
from collections.abc import Iterable, Mapping

from server.storage.files.generation_files import GenerationFiles
from server.storage.files.interface import FileStorage
from server.storage.files.signing import LinkSigner, SignedLinks

THUMBNAIL = ".thumbnail.webp"
SPRITESHEET = ".spritesheet.webp"
SUFFIXES = (THUMBNAIL, SPRITESHEET)

MEDIA_TYPE = "image/webp"
VIDEO_SUFFIX = ".mp4"


def still_keys(video: str) -> dict[str, str]:
    """The storage keys of the stills of a video by their suffixes, from the key of its file."""
    return {suffix: video.removesuffix(VIDEO_SUFFIX) + suffix for suffix in SUFFIXES}


def video_of(key: str) -> str:
    """The storage key of the video that a still belongs to."""
    return key.removesuffix(THUMBNAIL).removesuffix(SPRITESHEET) + VIDEO_SUFFIX


class Stills(GenerationFiles):
    """The stills, and the signed tokens that stand for them in links. A token of a still gives nobody its video."""

    def __init__(self, storage: FileStorage, signer: LinkSigner) -> None:
        super().__init__(storage)
        self.links = SignedLinks(storage, signer, SUFFIXES)

    def tokens(self, video: str) -> Mapping[str, str]:
        """The tokens that stand for the stills of a video, by their suffixes. They are signed together."""
        signed = self.links.sign(still_keys(video)[THUMBNAIL]).removesuffix(THUMBNAIL)
        return {suffix: signed + suffix for suffix in SUFFIXES}

    async def sizes_of(self, videos: Iterable[str]) -> dict[str, int]:
        """The bytes of the stills of videos that have some, by the keys of these."""
        sizes: Counter[str] = Counter()
        for file in (await self.storage.stat(key for video in videos for key in still_keys(video).values())).values():
            sizes[video_of(file.key)] += file.size
        return dict(sizes)

    async def delete_of(self, videos: Iterable[str]) -> None:
        """Remove the stills of videos, by the keys of these."""
        await self.delete([key for video in videos for key in still_keys(video).values()])
