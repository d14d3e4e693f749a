"""Writes short videos that tests read again."""

from pathlib import Path

import numpy as np

from pipelines.core.progress import Frames
from pipelines.stages.video_writer import Mp4Writer


def moving_square(frames: int, width: int, height: int) -> Frames:
    """A light square that crosses a dark gradient, (frames, height, width, 3): each frame differs from the others."""
    rows, columns = np.mgrid[0:height, 0:width]
    background = np.stack([columns * 100 // width, rows * 100 // height, rows * 0 + 40], axis=2).astype(np.uint8)
    video = np.repeat(background[None], frames, axis=0)
    side = height // 3
    for index in range(frames):
        left = (width - side) * index // max(1, frames - 1)
        video[index, side : 2 * side, left : left + side] = 220
    return video


def write_clip(path: Path, frames: int, width: int = 96, height: int = 64, fps: int = 16) -> Path:
    """Write `moving_square` as an MP4 file."""
    with Mp4Writer(path, width, height, fps) as writer:
        writer.write(moving_square(frames, width, height))
        writer.close()
    return path
