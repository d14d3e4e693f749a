"""What is known of a video before it is denoised: latents of its frames, without noise.

A pipeline for text begins with noise alone. To begin with known latents it gets these, mixed with as much noise as the
step at which it begins has. What is to be kept is replaced in the same way after each step, as in inpainting. Source:
`add_noise` and `scale_noise` of diffusers' schedulers for flow matching.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from pipelines.core.geometry import Geometry
from pipelines.stages.conditioning.vae_encoding import encode, in_groups, to_pixels
from pipelines.stages.conditioning.video_frames import read_frames


class KnownLatents(Protocol):
    """Latents without noise from which denoising begins at step `first_step`, counted from 0."""

    @property
    def first_step(self) -> int:
        """The first step that is made."""

    def begin(self, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """Return the latents of the first step from pure noise of their shape. `sigmas` are all noise levels."""

    def after_step(self, latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the latents (1, channels, t, h, w) of the next step, whose noise level is `sigma`."""


@dataclass(frozen=True, slots=True)
class KnownVideo:
    """The normalised latents (1, channels, t, h, w) in fp32 of the video that another one is made from."""

    latents: torch.Tensor
    first_step: int

    def begin(self, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        return at_noise_level(self.latents, noise, sigmas[self.first_step])

    def after_step(self, latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return latents


class KnownFirstFrame:
    """The normalised latents (1, channels, 1, h, w) in fp32 of an image that a video begins with, kept in each step.

    They are mixed with the noise that `seed` gives their frame, so that the noise of all frames fits together.
    """

    first_step = 0

    def __init__(self, latents: torch.Tensor, seed: int) -> None:
        self._latents = latents
        self._seed = seed
        self._noise: torch.Tensor | None = None

    def begin(self, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        return self.after_step(noise, sigmas[0])

    def after_step(self, latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if self._noise is None:
            # as the pipeline draws it: a generation that is resumed has not seen it
            generator = torch.Generator("cpu").manual_seed(self._seed)
            noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
            self._noise = noise[:, :, :1].clone()
        first = at_noise_level(self._latents, self._noise, sigma)
        return torch.cat([first, latents[:, :, 1:]], dim=2)


def at_noise_level(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return clean latents at noise level `sigma`, 0 … 1 (a tensor of one number), along a flow."""
    sigma = sigma.to(noise)
    return (1 - sigma) * clean.to(noise) + sigma * noise


def encode_first_frame(
    pipe: Any,
    image: Image.Image,
    geometry: Geometry,
    after_group: Callable[[], None] = lambda: None,
    tile: int | None = None,
) -> torch.Tensor:
    """Return the normalised latents (1, channels, 1, h, w) in fp32 of an image of the size that is generated.

    `tile` and `after_group` are as in `encode_video`.
    """
    pixels = to_pixels(pipe, image, geometry)
    return encode(pipe.vae, lambda: in_groups([pixels], 1), geometry, tile, after_group)


def encode_video(
    pipe: Any,
    path: Path,
    geometry: Geometry,
    fps: int,
    after_group: Callable[[], None] = lambda: None,
    tile: int | None = None,
) -> torch.Tensor:
    """Return the normalised latents (1, channels, t, h, w) in fp32 of a video file's frames at `fps` a second.

    `tile` is the longest side of tiles in pixels, None for whole frames. `after_group` is called after each group of
    frames is encoded; it may raise to end the encoding. Raises InputVideoError if the file cannot be read or is too
    short.
    """

    def groups() -> Generator[torch.Tensor, None, None]:
        # the file is read again for each tile: its frames would take as much memory as it is long
        with closing(read_frames(path, geometry, fps)) as frames:
            pixels = (to_pixels(pipe, frame, geometry) for frame in frames)
            yield from in_groups(pixels, pipe.vae.config.scale_factor_temporal)

    return encode(pipe.vae, groups, geometry, tile, after_group)
