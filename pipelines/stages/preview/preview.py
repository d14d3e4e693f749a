"""A look at a generation under way: its latents, as the last step thinks they will be, projected to RGB.

A VAE's latents are close to a picture already: a linear map of their channels shows colours and places, one pixel a
latent. The map follows from the VAE alone: a folder of weights may bring its own, in the form of `LATENT_RGB`.
"""

import io
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from pipelines.core.files import atomic_write
from pipelines.core.geometry import Geometry
from pipelines.core.model import LatentRgb
from pipelines.stages.preview.latent_rgb import project

LONGEST_SIDE = 384
"""Pixels. A picture is never larger than the video."""

_QUALITY = 80

log = logging.getLogger("paddock.preview")


class Preview:
    """The file that shows a generation under way: one JPEG at `path`, replaced every `interval` seconds.

    It is always whole, and lost with a power cut. `on_written` is called with the number of steps it shows the result
    of. A preview that cannot be written is given up; the generation goes on without. One object serves one run.
    """

    def __init__(self, path: Path, interval: float, on_written: Callable[[int], None] = lambda _: None) -> None:
        self._path = path
        self._interval = interval
        self._on_written = on_written
        self._due = time.monotonic()
        self._is_given_up = False

    def after_step(self, step: int, draw: Callable[[], Image.Image | None], *, is_last: bool) -> None:
        """Write the picture that `draw` makes, if it is time. The last step's shows while the video is decoded."""
        if self._is_given_up or not (is_last or time.monotonic() >= self._due):
            return
        if (picture := draw()) is None:
            return
        self._due = time.monotonic() + self._interval
        try:
            _write(picture, self._path)
        except OSError as error:
            log.warning("there is no preview of this generation any more: %s", error)
            self._is_given_up = True
        else:
            self._on_written(step)


def _write(picture: Image.Image, path: Path) -> None:
    # encoded first: a full disk then fails in one place
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=_QUALITY)
    atomic_write(path, encoded.getbuffer(), durable=False)


def draw(latents: torch.Tensor, latent_rgb: LatentRgb, geometry: Geometry) -> Image.Image:
    """The middle frame of normalised latents (1, channels, t, h, w), cropped as the video will be.

    Its longest side is that of the video, LONGEST_SIDE pixels at most. Values that are not numbers show as grey.
    """
    small = project(latents[0, :, latents.shape[2] // 2], latent_rgb)
    rows, columns = geometry.crop
    down, across = small.shape[0] / geometry.full_height, small.shape[1] / geometry.full_width
    scale = min(1.0, LONGEST_SIDE / max(geometry.width, geometry.height))
    return Image.fromarray(small.cpu().numpy()).resize(
        (max(1, round(geometry.width * scale)), max(1, round(geometry.height * scale))),
        Image.Resampling.BICUBIC,
        box=(columns.start * across, rows.start * down, columns.stop * across, rows.stop * down),
    )
