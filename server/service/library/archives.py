"""Archives of the videos of many generations, made while they are read: until then their links say what is in them."""

import re
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from server.core.errors import ConflictError, ResourceNotFoundError, UnavailableError, reason
from server.core.generation import Status
from server.service.library.unknown import unknown_generations
from server.service.library.zip_archive import ArchivedFile, zipped
from server.storage.db.records import Chosen
from server.storage.db.statements.library import LibraryRecords
from server.storage.files.interface import StoredFile
from server.storage.files.signing import LinkSigner
from server.storage.files.videos import SUFFIX, Videos

_ID_CHARS = 8
"""So many characters of an id are in a name and in a link."""

_SLUG_CHARS = 40
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Archive:
    """What a signed `token` stands for: so many videos, of so many bytes in all, and the ids that have none."""

    token: str
    count: int
    size: int
    without: list[str]


class Archives:
    """Makes archives of videos. Their links last as `signer` says."""

    def __init__(self, records: LibraryRecords, videos: Videos, signer: LinkSigner) -> None:
        self._records = records
        self._videos = videos
        self._signer = signer

    async def make(self, tenant: str, ids: Collection[str]) -> Archive:
        """An archive of some generations. Raises ResourceNotFoundError, ConflictError or UnavailableError."""
        chosen = await self._records.chosen(ids, tenant)
        known = {each.id for each in chosen}
        if unknown := [id_ for id_ in ids if id_ not in known]:
            raise unknown_generations(unknown)
        found = await self._found(chosen)
        if not found:
            raise ConflictError("None of these generations has a video.")
        without = [each.id for each in chosen if each.artifact not in found]
        token = self._signer.sign(",".join(f"{each.seq}.{each.id[:_ID_CHARS]}" for each in chosen))
        return Archive(token, len(found), sum(file.size for file in found.values()), without)

    async def open(self, token: str) -> AsyncGenerator[bytes, None]:
        """The bytes of the archive that a token stands for. What has vanished since is named in it.

        Raises ResourceNotFoundError if the token is forged or has expired or all videos are gone, and UnavailableError.
        """
        pairs = (each.split(".") for each in self._signer.verify(token).split(","))
        wanted = {int(seq): id_ for seq, id_ in pairs}
        rows = await self._records.numbered(wanted)
        chosen = {each.seq: each for each in rows if each.id.startswith(wanted[each.seq])}
        found = await self._found([*chosen.values()])
        if not found:
            raise ResourceNotFoundError("The videos of this archive were removed.")
        names = _names([*chosen.values()])
        files, left_out = list[ArchivedFile](), list[str]()
        for seq in sorted(wanted, reverse=True):
            each = chosen.get(seq)
            if each is None:
                left_out.append(f"paddock-{wanted[seq]}: deleted")
            elif each.artifact in found:
                file = found[each.artifact]
                files.append(ArchivedFile(names[seq], file.key, file.size, each.completed_at or file.modified))
            else:
                left_out.append(f"{names[seq]}: {_why(each)}")
        return zipped(self._videos.storage, files, left_out)

    async def _found(self, chosen: Sequence[Chosen]) -> dict[str, StoredFile]:
        """The videos that there are, by their storage keys."""
        try:
            return await self._videos.storage.stat(each.artifact for each in chosen if each.artifact)
        except OSError as error:
            raise UnavailableError(f"The videos cannot be read now: {reason(error)}.", 5) from error


def _why(chosen: Chosen) -> str:
    """Why there is no video of a generation."""
    return "removed to free space" if chosen.status is Status.SUCCEEDED else f"no video, it is {chosen.status}"


def _names(chosen: Sequence[Chosen]) -> Mapping[int, str]:
    """The names of videos in an archive, each by the `seq` of its generation: unlike each other, and for people."""
    begins = Counter(each.id[:_ID_CHARS] for each in chosen)
    names = {}
    for each in chosen:
        # of so few ids hardly ever two begin alike
        id_ = each.id[:_ID_CHARS] if begins[each.id[:_ID_CHARS]] == 1 else each.id
        names[each.seq] = "-".join(["paddock", id_, *_words(each.prompt)]) + SUFFIX
    return names


def _words(prompt: str) -> list[str]:
    """The first words of a prompt, as a name of a file may have them."""
    kept, room = list[str](), _SLUG_CHARS
    for word in _WORD.findall(normalize("NFKC", prompt).lower()):
        if len(word) > room:
            # of a script without spaces, some of it is better than none
            return kept or [word[:room]]
        kept.append(word)
        room -= len(word) + 1
    return kept
