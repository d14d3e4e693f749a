"""A look at a generation under way: its latents, as the last step thinks they will be, projected to RGB.

A VAE's latents are close to a picture already: a linear map of their channels shows colours and places, one pixel a
latent. The map follows from the VAE alone: a folder of weights may bring its own, in the form of `LATENT_RGB`.
"""

import io
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import TypeAdapter

from pipelines.core.files import atomic_write
from pipelines.core.geometry import Geometry
from pipelines.core.model import LatentRgb
from pipelines.hub.local import LATENT_RGB

LONGEST_SIDE = 384
"""Pixels. A picture is never larger than the video."""

_QUALITY = 80
_TABLE = TypeAdapter(LatentRgb)

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


def clean_latents(scheduler: Any, latents: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor | None:
    """What the step just done takes the finished latents to be; None if that cannot be told.

    `latents` are those after the step, `before` those it was given, if they are known. Schedulers that predict the
    clean sample keep it (UniPC). Of the others (Euler) the step itself tells: along a flow latents are
    (1 - sigma) * clean + sigma * noise, so the line through both latents meets the clean ones at sigma 0.
    """
    if getattr(scheduler, "predict_x0", False):
        predicted: torch.Tensor = scheduler.model_outputs[-1]
        return predicted
    step, sigmas = getattr(scheduler, "step_index", None), getattr(scheduler, "sigmas", None)
    if before is None or sigmas is None or not step:
        return None
    here, there = float(sigmas[step]), float(sigmas[step - 1])
    if here == there:
        return None
    return latents - here / (here - there) * (latents - before)


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


def project(latents: torch.Tensor, latent_rgb: LatentRgb) -> torch.Tensor:
    """Normalised latents (channels, h, w) → RGB bytes (h, w, 3), on the same device."""
    factors = torch.tensor(latent_rgb.factors, device=latents.device)
    bias = torch.tensor(latent_rgb.bias, device=latents.device)
    rgb = torch.einsum("chw,cr->hwr", latents.float(), factors) + bias
    return rgb.nan_to_num(0.0).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def read_latent_rgb(folder: Path) -> LatentRgb | None:
    """The map that a folder of weights brings; None if it has none, or none that can be read, which the log tells."""
    path = folder / LATENT_RGB
    try:
        return _TABLE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is left aside: %s", path, error)
        return None


def write_latent_rgb(latent_rgb: LatentRgb, folder: Path) -> None:
    """Have a folder of weights bring a map."""
    channels = ",\n    ".join(json.dumps(triple) for triple in latent_rgb.factors)
    bias = json.dumps(latent_rgb.bias)
    (folder / LATENT_RGB).write_text(f'{{\n  "factors": [\n    {channels}\n  ],\n  "bias": {bias}\n}}\n')


def fitting(latent_rgb: LatentRgb | None, vae: Any) -> LatentRgb | None:
    """The map, if it is for as many channels as the VAE's latents have; the log tells if it is not."""
    if latent_rgb is None or len(latent_rgb.factors) == vae.config.z_dim:
        return latent_rgb
    log.warning(
        "there are no previews: the map from latents to RGB is for %d channels, and the VAE has %d",
        len(latent_rgb.factors),
        vae.config.z_dim,
    )
    return None
