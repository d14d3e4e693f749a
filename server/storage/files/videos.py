"""Finished videos on disk: named by generation and attempt, reached by clients through signed links."""

import math
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from pipelines.core.files import atomic_write, part_path
from server.core.errors import ResourceNotFoundError
from server.core.generation import Generation

_SUFFIX = ".mp4"


def artifact_key(generation_id: str, attempt: int) -> str:
    """The key of the file an attempt leaves; a file by that name is always whole."""
    return f"{generation_id}.{attempt}{_SUFFIX}"


class Artifacts:
    """The folder of videos and the key that signs links to them, both under one data directory."""

    def __init__(self, data_dir: Path, url_ttl: float) -> None:
        self.folder = data_dir / "videos"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._url_ttl = url_ttl
        self._signer = URLSafeTimedSerializer(_signing_key(data_dir / "signing.key"), salt="video")

    def path(self, key: str) -> Path:
        """Where the file of a key lies, whether or not it is there."""
        return self.folder / key

    def finished(self, generation: Generation) -> str | None:
        """The key of a file some attempt at this generation finished, if there is one."""
        for attempt in range(generation.attempt, 0, -1):
            key = artifact_key(generation.id, attempt)
            if self.path(key).is_file():
                return key
        return None

    def discard(self, key: str) -> None:
        """Remove a file that no row will name, and what is half-written of it."""
        self.path(key).unlink(missing_ok=True)
        part_path(self.path(key)).unlink(missing_ok=True)

    def kept(self) -> dict[str, str]:
        """The key of every finished file, each with its generation's id."""
        return {path.name: path.name.split(".", 1)[0] for path in self.folder.glob(f"[!.]*{_SUFFIX}")}

    def sizes(self) -> dict[str, int]:
        """The bytes that every finished file takes, by its key."""
        sizes = {}
        for key in self.kept():
            # one may be removed meanwhile
            with suppress(FileNotFoundError):
                sizes[key] = self.path(key).stat().st_size
        return sizes

    def written(self, key: str) -> float:
        """When a file was written, in Unix seconds; infinite if it is not there."""
        try:
            return self.path(key).stat().st_mtime
        except FileNotFoundError:
            return math.inf

    def sweep(self, untouched: float = 0, held: Collection[str] = ()) -> None:
        """Remove what a killed worker left half-written, and nobody wrote to for some seconds.

        What belongs to the generations `held`, by their ids, stays.
        """
        for part in self.folder.glob(".*.part"):
            if part.name.split(".")[1] in held:
                continue
            with suppress(FileNotFoundError):
                if untouched == 0 or time.time() - part.stat().st_mtime > untouched:
                    part.unlink()

    def sign(self, key: str) -> str:
        """A token that stands for the file in a link, for as long as links last."""
        return self._signer.dumps(key.removesuffix(_SUFFIX)) + _SUFFIX

    def open_token(self, token: str) -> Path:
        """The file a token stands for; raises ResourceNotFoundError when it is forged, expired or gone."""
        try:
            key = self._signer.loads(token.removesuffix(_SUFFIX), max_age=int(self._url_ttl))
        except SignatureExpired as error:
            raise ResourceNotFoundError("This link has expired; read the generation again for a new one.") from error
        except BadSignature as error:
            raise ResourceNotFoundError("There is no such file.") from error
        path = self.path(key + _SUFFIX)
        if not path.is_file():
            raise ResourceNotFoundError("There is no such file.")
        return path


def _signing_key(path: Path) -> str:
    if not path.exists() or not path.read_text():
        # an empty key after a power loss would make every old link false, and new ones easy to forge
        atomic_write(path, secrets.token_urlsafe(32), permissions=0o600)
    return path.read_text()
