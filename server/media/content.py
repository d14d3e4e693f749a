"""What a client sent as an input: the file itself, or its base64, which may be a data URL."""

import base64
import binascii
import re

from server.media.limits import RefusedInputError
from server.media.references import MAX_CHARS, is_reference

_DATA_URL = re.compile(rb"\s*data:([^,]{0,200}),", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\s-]*+={0,2}\s*+")


def file_in(content: bytes, kind: str, max_bytes: int) -> bytes:
    """Return the bytes of a file from what a client sent. `kind` says what it must be, for example "an image".

    Raises RefusedInputError.
    """
    if is_reference(content[:MAX_CHARS].decode("latin-1")):
        raise RefusedInputError(f"must be {kind}, or a URL of at most {MAX_CHARS} characters")
    if match := _DATA_URL.match(content):
        if not match[1].lower().endswith(b";base64"):
            raise RefusedInputError("must be in base64 if it is a data URL: data:image/png;base64,…")
        content = _from_base64(content[match.end() :])
    elif _BASE64.fullmatch(content):
        content = _from_base64(content)
    if len(content) > max_bytes:
        raise RefusedInputError(f"must have at most {max_bytes // 2**20} MB")
    return content


def _from_base64(text: bytes) -> bytes:
    plain = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise RefusedInputError("is not valid base64") from error
