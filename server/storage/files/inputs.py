"""Images and videos that requests brought: kept once per tenant, named by their content, shown through signed links."""

import asyncio
import re

from pipelines.core.request import IMAGES, INPUTS, VideoParams
from server.storage.files.interface import FileStorage
from server.storage.files.signing import LinkSigner, SignedLinks, TenantSigner

IMAGE_SUFFIX = ".png"
VIDEO_SUFFIX = ".mp4"
SUFFIXES = (IMAGE_SUFFIX, VIDEO_SUFFIX)

UPLOAD_SECONDS = 3600.0
"""So long the id of an upload is valid."""

UNUSED_SECONDS = UPLOAD_SECONDS + 600.0
"""An input is kept for so long although no row names it: its request may be about to be recorded."""

_KEY = re.compile(r"([0-9a-f]+)\.([0-9a-f]{64})\.(?:png|mp4)")
_OPEN = "0"
"""Stands for the tenant of a server without keys."""


def input_key(tenant: str, digest: str, suffix: str = IMAGE_SUFFIX) -> str:
    """The storage key of a tenant's input, by its digest and the suffix of its kind."""
    return f"{tenant or _OPEN}.{digest}{suffix}"


def input_keys(tenant: str, params: VideoParams | None) -> dict[str, str]:
    """The storage keys of the inputs that a tenant's video has, by the fields that name them."""
    digests = {name: getattr(params, name, None) for name in INPUTS}
    return {
        name: input_key(tenant, digest, IMAGE_SUFFIX if name in IMAGES else VIDEO_SUFFIX)
        for name, digest in digests.items()
        if digest is not None
    }


def named_by(key: str) -> tuple[str, str] | None:
    """The tenant and the digest that a storage key has; None for a file of another name."""
    match = _KEY.fullmatch(key)
    return None if match is None else ("" if match[1] == _OPEN else match[1], match[2])


class Inputs:
    """The inputs, the signed tokens that stand for them in links, and those that are the ids of uploads."""

    def __init__(self, storage: FileStorage, signer: LinkSigner, uploads: TenantSigner) -> None:
        self.storage = storage
        self.uploads = uploads
        self.links = SignedLinks(storage, signer, SUFFIXES)
        self.changing = asyncio.Lock()
        """Held while an input is written, or looked at and removed: a new one must not go for the age of an old one."""
