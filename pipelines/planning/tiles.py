"""Positions of the tiles of a frame.

Neighbours overlap and are blended. All tiles have the same size, so that none is decoded for a narrow remainder.
"""

from math import ceil

OVERLAP = 64
"""The least overlap of neighbours in pixels."""

Span = tuple[int, int]
"""Start and end of a tile along one side."""


def spans(length: int, largest: int, overlap: int) -> list[Span]:
    """The fewest tiles of one size that cover a side: at most `largest` long, sharing `overlap` or more."""
    if length <= largest:
        return [(0, length)]
    count = ceil((length - overlap) / (largest - overlap))
    size = ceil((length + (count - 1) * overlap) / count)
    starts = (index * (length - size) // (count - 1) for index in range(count))
    return [(start, start + size) for start in starts]
