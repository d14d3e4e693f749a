"""Signed tokens that stand for files in links: who has the link may fetch the file, until the token expires."""

import secrets
import time
from pathlib import Path

from itsdangerous import BadSignature, URLSafeTimedSerializer

from pipelines.core.files import atomic_write
from server.core.errors import ResourceNotFoundError


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


def _signing_key(path: Path) -> str:
    if not path.exists() or not path.read_text():
        # durable: an empty key after a power failure would break every old link, and make new ones easy to forge
        atomic_write(path, secrets.token_urlsafe(32), permissions=0o600)
    return path.read_text()
