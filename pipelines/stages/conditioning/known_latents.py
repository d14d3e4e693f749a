"""What is known of a video before it is denoised: latents of its frames, without noise.

A pipeline for text begins with noise alone. To begin with known latents it gets these, mixed with as much noise as the
step at which it begins has. Source: `add_noise` and `scale_noise` of diffusers' schedulers for flow matching.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.core.geometry import Geometry
from pipelines.stages.conditioning.vae_encoding import encode, in_groups, to_pixels
from pipelines.stages.conditioning.video_frames import read_frames


@dataclass(frozen=True, slots=True)
class KnownVideo:
    """The normalised latents (1, channels, t, h, w) in fp32 of the video that another one is made from.

    Denoising begins at step `first_step`, counted from 0, with these latents at that step's noise level.
    """

    latents: torch.Tensor
    first_step: int

    def begin(self, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """Return the latents of the first step from pure noise of the same shape. `sigmas` are all noise levels."""
        return at_noise_level(self.latents, noise, sigmas[self.first_step])


def at_noise_level(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return clean latents at noise level `sigma`, 0 … 1 (a tensor of one number), along a flow."""
    sigma = sigma.to(noise)
    return (1 - sigma) * clean.to(noise) + sigma * noise


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
