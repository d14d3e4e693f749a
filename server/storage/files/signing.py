"""Signed tokens that stand for files in links: who has the link may fetch the file, until the token expires."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer

from server.core.errors import ResourceNotFoundError, UnavailableError, reason
from server.storage.files.interface import FileStorage, StoredFile


class LinkSigner:
    """Signs tokens that last `ttl` seconds with the first of the keys, and knows those that any of them signed.

    `renewal` says how a client gets a new one.
    """

    def __init__(
        self, keys: Sequence[str], ttl: float, salt: str, renewal: str = "read the generation again for a new one"
    ) -> None:
        self.ttl = ttl
        self._renewal = renewal
        self._serializer = _serializer(keys, salt)

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
        if time.time() - signed_at.timestamp() > self.ttl:
            raise ResourceNotFoundError(f"This link has expired; {self._renewal}.")
        return str(name)


class TenantSigner:
    """Signs values for one tenant each: for another one its token is as invalid as a forged one.

    Tokens last `ttl` seconds. The keys are used as those of `LinkSigner`.
    """

    def __init__(self, keys: Sequence[str], ttl: float, salt: str) -> None:
        self._keys = keys
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
        return _serializer(self._keys, f"{self._salt}:{tenant}")


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
        """The file that a token stands for.

        Raises ResourceNotFoundError if it is forged, expired, or its file gone; UnavailableError if that is not known.
        """
        suffix = self._suffix_of(token)
        return await self.file(self._signer.verify(token.removesuffix(suffix)) + suffix)

    async def file(self, key: str) -> StoredFile:
        """The file with a storage key. Raises ResourceNotFoundError if it is gone, or UnavailableError."""
        try:
            found = await self._storage.stat([key])
        except OSError as error:
            raise UnavailableError(f"The file cannot be read now: {reason(error)}.", 5) from error
        if key not in found:
            raise ResourceNotFoundError("There is no such file.")
        return found[key]

    def _suffix_of(self, name: str) -> str:
        return next((suffix for suffix in self._suffixes if name.endswith(suffix)), self._suffixes[0])


def read_key_file(path: Path) -> str | None:
    """The key that versions before 0.3 kept in a file; None if there is none. Raises OSError."""
    try:
        return path.read_text() or None
    except FileNotFoundError:
        return None


def _serializer(keys: Sequence[str], salt: str) -> URLSafeTimedSerializer:
    # the library signs with the last one
    return URLSafeTimedSerializer([*reversed(keys)], salt=salt)
