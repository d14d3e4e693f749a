"""Files of the operator: read whole, if they are not too large."""

from pathlib import Path


class UnusableFileError(Exception):
    """A file cannot be used; `str()` is a sentence that names it."""


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a file in UTF-8 of at most so many bytes. Raises UnusableFileError."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UnusableFileError(f"{path}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise UnusableFileError(f"{path}: must have at most {max_bytes} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"{path}: is not text in UTF-8") from error
