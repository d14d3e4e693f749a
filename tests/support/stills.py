"""Videos whose frames can be told apart by their colour, and the pictures that are made of them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.stages.writing.video_writer import Mp4Writer

TOLERANCE = 12.0
"""How far colours may be off, on average: a video and a WebP file both lose some."""


def write_ramp(
    path: Path, frames: int, width: int = 96, height: int = 64, before: Path | None = None, sound: Path | None = None
) -> Path:
    """Write a video that turns from dark to bright, bright on its left and red at its top."""
    with Mp4Writer(path, width, height, 16, before, sound) as writer:
        for number in range(frames):
            frame = np.full((1, height, width, 3), 40 + 180 * number // max(1, frames - 1), np.uint8)
            frame[:, :, : width // 4] = 240
            frame[:, : height // 4] = (200, 40, 40)
            writer.write(frame)
        writer.close()
    return path


def pixels(picture: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(picture.convert("RGB"), np.float64)


def difference(picture: Image.Image, frame: npt.NDArray[np.uint8]) -> float:
    """How far the colours of a picture are from those of a frame of any size, on average."""
    expected = Image.fromarray(frame).resize(picture.size, Image.Resampling.LANCZOS)
    return float(np.abs(pixels(picture) - pixels(expected)).mean())


def tiles(sheet: Image.Image) -> list[Image.Image]:
    """The 16 tiles of a spritesheet in their order."""
    width, height = sheet.width // 4, sheet.height // 4
    places = [(column * width, row * height) for row in range(4) for column in range(4)]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in places]
