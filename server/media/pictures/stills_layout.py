"""What the still pictures of a video show: which of its frames, and how large."""

THUMBNAIL_SIDE = 384
"""Limit of the longer side of a thumbnail in pixels."""

TILE_SIDE = 192
"""Limit of the longer side of each tile of a spritesheet."""

COLUMNS = ROWS = 4
"""The tiles of a spritesheet, which follow each other as words do."""

TILES = COLUMNS * ROWS


def thumbnail_frame(count: int) -> int:
    """The number of the frame, from 0, that the thumbnail of a video of `count` frames shows.

    It is about a third into the video: what moves is seen by then, and a first frame may be that of another video.
    """
    return round((count - 1) / 3)


def tile_frames(count: int) -> list[int]:
    """The numbers of the frames, from 0, that the tiles show: evenly spaced from the first to the last.

    A video of fewer frames has some of them in several tiles.
    """
    return [round(tile * (count - 1) / (TILES - 1)) for tile in range(TILES)]


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The size in pixels within `side`, in the same shape and never larger."""
    share = min(1.0, side / max(width, height))
    return max(1, round(width * share)), max(1, round(height * share))
