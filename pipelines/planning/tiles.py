"""A frame in tiles: where they lie.

Neighbours overlap, to be faded into each other. All are of one size, so that none is decoded for a narrow remainder.
"""

from math import ceil

OVERLAP = 64
"""Pixels, at least, that neighbours share."""

Span = tuple[int, int]
"""Where a tile begins, and where it ends, along one side."""


def spans(length: int, largest: int, overlap: int) -> list[Span]:
    """As few tiles as cover a side: of one size, `largest` at most, and sharing `overlap` or more with the next."""
    if length <= largest:
        return [(0, length)]
    count = ceil((length - overlap) / (largest - overlap))
    size = ceil((length + (count - 1) * overlap) / count)
    starts = (index * (length - size) // (count - 1) for index in range(count))
    return [(start, start + size) for start in starts]
