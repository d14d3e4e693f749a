"""Texts that name an input instead of containing it."""

import re

MAX_CHARS = 4096
"""Limit of such a text."""

_REFERENCE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]{0,31}://|(?:https?|ftp|file|blob|upload):)", re.IGNORECASE)


def is_reference(text: str) -> bool:
    """Whether a text begins as a URL does. No base64 and no data URL does so."""
    return _REFERENCE.match(text) is not None
