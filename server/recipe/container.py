"""Reads the comment of an MP4 file: only the boxes on the way to it, each within the one around it."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from server.recipe.recipe import MAX_BYTES, Recipe, RecipeError, parse

_MAX_BOXES = 10_000
"""Limit of the boxes that are looked at: a video of this server has a few dozen."""

_WAY = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
_SKIPPED = {b"meta": 4, b"data": 8}
"""How many bytes precede the content of these boxes: version and flags, the type of the text and its language."""


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a video's file. Raises RecipeError with the file's name."""
    try:
        return parse(read_comment(path))
    except RecipeError as error:
        raise RecipeError(f"{path.name} cannot be used: {error}.") from None


def read_comment(path: Path) -> bytes:
    """Return the comment of an MP4 file as it is there, in UTF-8. Raises RecipeError without the file's name."""
    try:
        if not path.is_file():
            raise RecipeError("it is not a file" if path.exists() else "there is no such file")
        with path.open("rb") as file:
            return _comment(file, path.stat().st_size)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError(f"it cannot be read: {reason}") from error


def _comment(file: BinaryIO, size: int) -> bytes:
    if file.read(8)[4:] != b"ftyp":
        raise RecipeError("it is not an MP4 file")
    start, end = 0, size
    for kind in _WAY:
        found = next((box for box in _boxes(file, start, end) if box.kind == kind), None)
        if found is None:
            raise RecipeError("it has no recipe" if kind != b"moov" else "it is damaged or not complete")
        start, end = found.start + _SKIPPED.get(kind, 0), found.end
    if end - start > MAX_BYTES:
        raise RecipeError(f"its recipe has more than {MAX_BYTES // 1024} KiB")
    file.seek(start)
    return file.read(max(0, end - start))


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes between two places. Raises RecipeError if one does not fit there, or for too many."""
    for _ in range(_MAX_BOXES):
        if end - start < 8:
            return
        file.seek(start)
        head = file.read(16)
        length, kind, header = int.from_bytes(head[:4]), head[4:8], 8
        if length == 1:
            length, header = int.from_bytes(head[8:16]), 16
        elif length == 0:
            # to the end
            length = end - start
        if not header <= length <= end - start:
            raise RecipeError("it is damaged or not complete")
        yield _Box(kind, start + header, start + length)
        start += length
    raise RecipeError("it is damaged: it has too many parts")
