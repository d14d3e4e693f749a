"""Images that requests brought: kept once per tenant, named by their pixels, shown through signed links."""

import asyncio
import re

from server.storage.files.interface import FileStorage
from server.storage.files.signing import LinkSigner, SignedLinks, TenantSigner

SUFFIX = ".png"

UNUSED_SECONDS = 3600.0
"""An image is kept for so long although no row names it: its request may be about to be recorded."""

UPLOAD_SECONDS = UNUSED_SECONDS
"""So long the id of an upload is valid."""

_KEY = re.compile(r"([0-9a-f]+)\.([0-9a-f]{64})\.png")
_OPEN = "0"
"""Stands for the tenant of a server without keys."""


def input_key(tenant: str, digest: str) -> str:
    """The storage key of a tenant's image, by the digest of its pixels."""
    return f"{tenant or _OPEN}.{digest}{SUFFIX}"


def named_by(key: str) -> tuple[str, str] | None:
    """The tenant and the digest that a storage key has; None for a file of another name."""
    match = _KEY.fullmatch(key)
    return None if match is None else ("" if match[1] == _OPEN else match[1], match[2])


class Inputs:
    """The images, the signed tokens that stand for them in links, and those that are the ids of uploads."""

    def __init__(self, storage: FileStorage, signer: LinkSigner, uploads: TenantSigner) -> None:
        self.storage = storage
        self.uploads = uploads
        self.links = SignedLinks(storage, signer, SUFFIX)
        self.changing = asyncio.Lock()
        """Held while an image is written, or looked at and removed: a new one must not go for the age of an old one."""
