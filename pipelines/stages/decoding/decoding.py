"""The decoding stage: latents → frames, one latent frame at a time.

`AutoencoderKLWan.decode` returns all frames at once: at 720p a second copy of several gigabytes. Its decoder is causal
in time and keeps what later frames need in a feature cache. Calling it for one latent frame at a time therefore gives
the same tensors, and each group of frames can be written before the next one is decoded.

Tiles are decoded one after another, each over the whole length of the video, because each needs that cache for itself.
Their pixels wait in host memory; whole frames are returned while the last tile is decoded. In both cases the memory on
the device does not depend on the video's length.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.progress import Frames
from pipelines.planning.layout import Decoding
from pipelines.planning.tiles import OVERLAP, spans
from pipelines.stages.decoding.tile_blending import TileBlender

PartCallback = Callable[[int, int], None]
"""Called after each part of the decoding with the finished parts and their total. It may raise to end the decoding."""


def decode_frames(
    vae: Any, latents: torch.Tensor, decoding: Decoding = Decoding.WHOLE, on_part: PartCallback = lambda *_: None
) -> Generator[Frames, None, None]:
    """Decode normalised latents (1, channels, t, h, w) into groups of RGB frames (n, H, W, 3) in uint8.

    The first group holds one frame, each later one as many as the VAE's temporal scale. Raises NonFiniteOutputError at
    the first group that contains NaN or infinity.
    """
    device, dtype = next(vae.parameters()).device, vae.dtype
    hidden = vae.post_quant_conv(denormalise(vae, latents.to(device, dtype)))
    if decoding.tile is None:
        for index, group in enumerate(_decode(vae, hidden), start=1):
            frames = _to_rgb(vae, group)
            on_part(index, hidden.shape[2])
            yield frames
    else:
        yield from _decode_tiled(vae, hidden, decoding.tile, on_part)


def _decode(vae: Any, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield groups (channels, n, h, w), still patchified if the VAE uses patches."""
    vae.clear_cache()
    try:
        for index in range(hidden.shape[2]):
            # each call goes through the feature cache from its first entry
            vae._conv_idx = [0]
            yield vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )[0]
    finally:
        vae.clear_cache()


def _decode_tiled(vae: Any, hidden: torch.Tensor, tile: int, on_part: PartCallback) -> Iterator[Frames]:
    """Decode in tiles whose sides are `tile` pixels at most."""
    scale = vae.config.scale_factor_spatial
    length, *sides = hidden.shape[2:]
    rows, columns = (spans(side, tile // scale, OVERLAP // scale) for side in sides)
    # tiles are blended before they are unpatchified
    factor = scale // (vae.config.patch_size or 1)
    blender = TileBlender(*([(begin * factor, end * factor) for begin, end in along] for along in (rows, columns)))
    counts = [1, *[vae.config.scale_factor_temporal] * (length - 1)]
    video = [np.empty((count, sides[0] * scale, sides[1] * scale, 3), np.uint8) for count in counts]
    tiles = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    for done, (row, column) in enumerate(tiles):
        (top, bottom), (left, right) = rows[row], columns[column]
        for index, group in enumerate(_decode(vae, hidden[..., top:bottom, left:right])):
            pixels = _to_rgb(vae, blender.blend(group, row, column, index))
            height, width = pixels.shape[1:3]
            y, x = top * scale, left * scale
            video[index][:, y : y + height, x : x + width] = pixels
            on_part(done * length + index + 1, len(tiles) * length)
            if (row, column) == tiles[-1]:
                yield video[index]


def denormalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Convert latents (1, channels, t, h, w) from the transformer's scale to the VAE's."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents)
    # WanPipeline divides by the inverse as well: in bf16 a multiplication rounds differently
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents)
    return latents / inverse_std + mean


def _to_rgb(vae: Any, group: torch.Tensor) -> Frames:
    """Convert the decoder's output (channels, n, h, w) in -1 … 1 to bytes (n, H, W, 3)."""
    _check(group)
    if vae.config.patch_size is not None:
        group = unpatchify(group[None], patch_size=vae.config.patch_size)[0]
    pixels = group.float().clamp_(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def _check(group: torch.Tensor) -> None:
    if not torch.isfinite(group).all():
        raise NonFiniteOutputError(
            "The model produced frames that are not numbers (NaN or infinity), so no video was written."
        )
