"""Encodes frames to latents, one group of frames at a time, whole or in tiles.

`AutoencoderKLWan.encode` takes the frames of a video as one tensor: 0.8 GB at 720p and 81 frames. Its encoder is causal
in time and keeps what later frames need in a feature cache. Calling it for one group of frames at a time therefore
gives the same latents.

Tiles are those in which frames are decoded. They are encoded one after another, each over the whole length of the
video, because each needs that cache for itself, and blended where they overlap, as diffusers does it. The memory on the
device does not depend on the video's length. Tiled latents differ a little from those of whole frames: a tile does not
see what is beside it.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
from PIL import Image

from pipelines.core.geometry import Geometry
from pipelines.planning.tiles import OVERLAP, spans
from pipelines.stages.decoding.tile_blending import TileBlender

Groups = Callable[[], Generator[torch.Tensor, None, None]]
"""Yields the frames of a video in groups (1, 3, n, H, W) in -1 … 1, from its first one at each call."""


def encode(
    vae: Any, groups: Groups, geometry: Geometry, tile: int | None, after_group: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Encode a video to normalised latents (1, channels, t, h, w) in fp32, the most likely ones.

    `groups` are those of `encode_frames`, of the size that is generated. The sides of tiles are `tile` pixels at most;
    with None whole frames are encoded. `after_group` is called after each group of each tile; it may raise to end the
    encoding.
    """
    if tile is None:
        with closing(groups()) as whole:
            return normalise(vae, encode_frames(vae, whole, after_group))
    scale = vae.config.scale_factor_spatial
    sides = geometry.full_height // scale, geometry.full_width // scale
    rows, columns = (spans(side, tile // scale, OVERLAP // scale) for side in sides)
    blender = TileBlender(rows, columns)
    strips = []
    for row, (top, bottom) in enumerate(rows):
        parts = []
        for column, (left, right) in enumerate(columns):
            area = slice(top * scale, bottom * scale), slice(left * scale, right * scale)
            with closing(groups()) as whole:
                latents = encode_frames(vae, (group[..., *area] for group in whole), after_group)
            parts.append(blender.blend(latents, row, column, 0))
        strips.append(torch.cat(parts, dim=-1))
    return normalise(vae, torch.cat(strips, dim=-2))


def encode_frames(
    vae: Any, groups: Iterable[torch.Tensor], after_group: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Encode groups of frames (1, 3, n, H, W) in -1 … 1 to latents (1, channels, t, h, w), the most likely ones.

    The first group has one frame, each later one as many as the VAE's temporal scale. `after_group` is called after
    each group; it may raise to end the encoding.
    """
    parameter = next(vae.parameters())
    vae.clear_cache()
    encoded = []
    try:
        for group in groups:
            frames = group.to(parameter.device, parameter.dtype)
            if vae.config.patch_size is not None:
                frames = patchify(frames, patch_size=vae.config.patch_size)
            # each call goes through the feature cache from its first entry
            vae._enc_conv_idx = [0]
            encoded.append(vae.encoder(frames, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
            after_group()
    finally:
        vae.clear_cache()
    moments: torch.Tensor = vae.quant_conv(torch.cat(encoded, dim=2))
    # a normal distribution is most likely at its mean, which the first half of the channels is
    return moments.chunk(2, dim=1)[0]


def in_groups(frames: Iterable[torch.Tensor], scale: int) -> Generator[torch.Tensor, None, None]:
    """Yield frames (1, 3, H, W) as groups (1, 3, n, H, W): the first has one, each later one `scale`."""
    group: list[torch.Tensor] = []
    size = 1
    for frame in frames:
        group.append(frame)
        if len(group) == size:
            yield torch.stack(group, dim=2)
            group, size = [], scale


def to_pixels(pipe: Any, image: Image.Image, geometry: Geometry) -> torch.Tensor:
    """Return an image of the size that is generated as (1, 3, H, W) in -1 … 1, in fp32."""
    pixels: torch.Tensor = pipe.video_processor.preprocess(image, geometry.full_height, geometry.full_width).float()
    return pixels


def normalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Convert latents (1, channels, t, h, w) from the VAE's scale to the transformer's, in fp32."""
    latents = latents.float()
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents)
    # the pipeline multiplies by the inverse as well: a division rounds differently
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents)
    return (latents - mean) * inverse_std
