"""Signed tokens that stand for files in links: who has the link may fetch the file, until the token expires."""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer

from pipelines.core.files import atomic_write
from server.core.errors import ResourceNotFoundError
from server.storage.files.interface import FileStorage, StoredFile


class LinkSigner:
    """Signs tokens that last `ttl` seconds, with the key in a file. The key is made if there is none."""

    def __init__(self, key_file: Path, ttl: float, salt: str) -> None:
        self._ttl = ttl
        self._serializer = URLSafeTimedSerializer(_signing_key(key_file), salt=salt)

    def sign(self, name: str) -> str:
        """A token for a name."""
        return self._serializer.dumps(name)

    def verify(self, token: str) -> str:
        """The name that a token stands for; raises ResourceNotFoundError for one that is forged or has expired."""
        try:
            name, signed_at = self._serializer.loads(token, return_timestamp=True)
        except BadSignature as error:
            raise ResourceNotFoundError("There is no such file.") from error
        # the library refuses a token of the future, which a clock that was set back makes of every recent one
        if time.time() - signed_at.timestamp() > self._ttl:
            raise ResourceNotFoundError("This link has expired; read the generation again for a new one.")
        return str(name)


class TenantSigner:
    """Signs values for one tenant each: for another one its token is as invalid as a forged one.

    Tokens last `ttl` seconds. The key is in the file of `LinkSigner`.
    """

    def __init__(self, key_file: Path, ttl: float, salt: str) -> None:
        self._key = _signing_key(key_file)
        self._ttl = ttl
        self._salt = salt

    def sign(self, tenant: str, value: Any) -> str:
        """A token for a value that JSON can hold."""
        return self._serializer(tenant).dumps(value)

    def verify(self, tenant: str, token: str) -> Any:
        """The value that a token stands for; None if it is forged, another tenant's, or has expired."""
        try:
            value, signed_at = self._serializer(tenant).loads(token, return_timestamp=True)
        except BadSignature:
            return None
        return None if time.time() - signed_at.timestamp() > self._ttl else value

    def _serializer(self, tenant: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._key, salt=f"{self._salt}:{tenant}")


class SignedLinks:
    """Tokens that stand for the files of one storage in links. They end as the files do, with one of `suffixes`."""

    def __init__(self, storage: FileStorage, signer: LinkSigner, suffixes: Sequence[str]) -> None:
        self._storage = storage
        self._signer = signer
        self._suffixes = suffixes

    def sign(self, key: str) -> str:
        """A token that stands for a file in a link."""
        suffix = self._suffix_of(key)
        return self._signer.sign(key.removesuffix(suffix)) + suffix

    async def find(self, token: str) -> StoredFile:
        """The file that a token stands for; raises ResourceNotFoundError if it is forged, expired, or its file gone."""
        suffix = self._suffix_of(token)
        key = self._signer.verify(token.removesuffix(suffix)) + suffix
        found = await self._storage.stat([key])
        if key not in found:
            raise ResourceNotFoundError("There is no such file.")
        return found[key]

    def _suffix_of(self, name: str) -> str:
        return next((suffix for suffix in self._suffixes if name.endswith(suffix)), self._suffixes[0])


def _signing_key(path: Path) -> str:
    if not path.exists() or not path.read_text():
        # durable: an empty key after a power failure would break every old link, and make new ones easy to forge
        atomic_write(path, secrets.token_urlsafe(32), permissions=0o600)
    return path.read_text()
