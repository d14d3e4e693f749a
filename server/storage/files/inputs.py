"""Images, videos and sounds of requests: kept once per tenant, named by their content, shown through signed links."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipelines.core.request import IMAGES, INPUTS, VideoParams
from server.storage.db.sharing.locks import Lock, Locks
from server.storage.files.interface import FileStorage
from server.storage.files.signing import LinkSigner, SignedLinks, TenantSigner

IMAGE_SUFFIX = ".png"
VIDEO_SUFFIX = ".mp4"
AUDIO_SUFFIX = ".flac"
SUFFIXES = (IMAGE_SUFFIX, VIDEO_SUFFIX, AUDIO_SUFFIX)

_SUFFIX_OF = dict.fromkeys(INPUTS, VIDEO_SUFFIX) | dict.fromkeys(IMAGES, IMAGE_SUFFIX) | {"audio": AUDIO_SUFFIX}

UPLOAD_SECONDS = 3600.0
"""So long the id of an upload is valid."""

UNUSED_SECONDS = UPLOAD_SECONDS + 600.0
"""An input is kept for so long although no row names it: its request may be about to be recorded."""

_KEY = re.compile(r"([0-9a-f]+)\.([0-9a-f]{64})\.(?:png|mp4|flac)")
_OPEN = "0"
"""Stands for the tenant of a server without keys."""


def input_key(tenant: str, digest: str, suffix: str = IMAGE_SUFFIX) -> str:
    """The storage key of a tenant's input, by its digest and the suffix of its kind."""
    return f"{tenant or _OPEN}.{digest}{suffix}"


def input_keys(tenant: str, params: VideoParams | None) -> dict[str, str]:
    """The storage keys of the inputs that a tenant's video has, by the fields that name them."""
    digests = {name: getattr(params, name, None) for name in INPUTS}
    return {name: input_key(tenant, digest, _SUFFIX_OF[name]) for name, digest in digests.items() if digest is not None}


def named_by(key: str) -> tuple[str, str] | None:
    """The tenant and the digest that a storage key has; None for a file of another name."""
    match = _KEY.fullmatch(key)
    return None if match is None else ("" if match[1] == _OPEN else match[1], match[2])


class Inputs:
    """The inputs, the signed tokens that stand for them in links, and those that are the ids of uploads.

    A new input must not be removed for the age of an old one, nor on another server, of which the `locks` are.
    """

    def __init__(self, storage: FileStorage, signer: LinkSigner, uploads: TenantSigner, locks: Locks) -> None:
        self.storage = storage
        self.uploads = uploads
        self.links = SignedLinks(storage, signer, SUFFIXES)
        self._locks = locks
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """While this lasts, inputs may be written, and count as new. Raises RecordsUnavailableError."""
        async with self._one, self._locks.shared(Lock.INPUTS):
            yield

    @asynccontextmanager
    async def removing(self) -> AsyncIterator[bool]:
        """While this lasts, inputs may be looked at and removed, unless it is False: another server is at them."""
        async with self._one, self._locks.tried(Lock.INPUTS) as is_held:
            yield is_held
