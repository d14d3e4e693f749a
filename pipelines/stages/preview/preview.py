"""A picture of a generation while it denoises: the latents that the last step predicts, projected to RGB.

Latents are close to a picture already: a linear map of their channels shows colours and positions, one pixel for each
latent (`latent_rgb`).
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
"""Pixels. A preview is never larger than the video."""

_QUALITY = 80

log = logging.getLogger("paddock.preview")


class Preview:
    """The preview file of one generation: a JPEG at `path`, replaced every `interval` seconds.

    The file is complete at any moment, but may be lost in a power failure. `on_written` is called with the number of
    steps that the picture shows the result of. If the file cannot be written, the generation continues without a
    preview. Use one object for one run.
    """

    def __init__(self, path: Path, interval: float, on_written: Callable[[int], None] = lambda _: None) -> None:
        self._path = path
        self._interval = interval
        self._on_written = on_written
        self._due = time.monotonic()
        self._has_failed = False

    def after_step(self, step: int, draw: Callable[[], Image.Image | None], *, is_last: bool) -> None:
        """Write the picture that `draw` returns, if it is due. The last step's is shown while the video is decoded."""
        if self._has_failed or not (is_last or time.monotonic() >= self._due):
            return
        if (picture := draw()) is None:
            return
        self._due = time.monotonic() + self._interval
        try:
            _write(picture, self._path)
        except OSError as error:
            log.warning("this generation has no preview any more: %s", error)
            self._has_failed = True
        else:
            self._on_written(step)


def _write(picture: Image.Image, path: Path) -> None:
    # encoded in memory, so that only one place meets a full disk
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=_QUALITY)
    atomic_write(path, encoded.getbuffer(), durable=False)


def draw(latents: torch.Tensor, latent_rgb: LatentRgb, geometry: Geometry) -> Image.Image:
    """Return the middle frame of normalised latents (1, channels, t, h, w), cropped like the video.

    It is as large as the video, with LONGEST_SIDE pixels at most. NaN and infinity are shown as grey.
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
