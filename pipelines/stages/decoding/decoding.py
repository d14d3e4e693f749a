"""Latents → frames, one latent frame at a time.

`AutoencoderKLWan.decode` returns all frames at once: at 720p a second copy of several gigabytes. Its decoder is
causal in time and keeps what it needs in a feature cache, so calling it a latent frame at a time gives the same
tensors and lets each group of frames be written before the next is made. Tiles go through all of the time one after
another, as each would need that cache for itself: their pixels wait in host memory, and while the last one is decoded,
whole frames come. Either way the card holds no more of a longer video.
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
from pipelines.stages.decoding.tile_blending import Joiner

OnPart = Callable[[int, int], None]
"""Told after each part of a decoding how many are done, of how many; may raise to end it there."""


def decode_frames(
    vae: Any, latents: torch.Tensor, decoding: Decoding = Decoding.WHOLE, on_part: OnPart = lambda *_: None
) -> Generator[Frames, None, None]:
    """Decode normalised latents (1, channels, t, h, w) into groups of RGB frames (n, H, W, 3).

    The first group holds one frame, each later one as many as the VAE's temporal scale. Raises NonFiniteOutputError at
    the first group that holds NaN or infinity.
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
    """Groups (channels, n, h, w), in the patches of a VAE that has them."""
    vae.clear_cache()
    try:
        for index in range(hidden.shape[2]):
            # each call walks the cache's slots from the first
            vae._conv_idx = [0]
            yield vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )[0]
    finally:
        vae.clear_cache()


def _decode_tiled(vae: Any, hidden: torch.Tensor, tile: int, on_part: OnPart) -> Iterator[Frames]:
    """`tile` is the side of the largest tile, in pixels."""
    scale = vae.config.scale_factor_spatial
    length, *sides = hidden.shape[2:]
    rows, columns = (spans(side, tile // scale, OVERLAP // scale) for side in sides)
    grown = scale // (vae.config.patch_size or 1)
    joiner = Joiner(*([(begin * grown, end * grown) for begin, end in along] for along in (rows, columns)))
    counts = [1, *[vae.config.scale_factor_temporal] * (length - 1)]
    video = [np.empty((count, sides[0] * scale, sides[1] * scale, 3), np.uint8) for count in counts]
    places = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    for done, (row, column) in enumerate(places):
        (top, bottom), (left, right) = rows[row], columns[column]
        for index, group in enumerate(_decode(vae, hidden[..., top:bottom, left:right])):
            pixels = _to_rgb(vae, joiner.join(group, row, column, index))
            height, width = pixels.shape[1:3]
            y, x = top * scale, left * scale
            video[index][:, y : y + height, x : x + width] = pixels
            on_part(done * length + index + 1, len(places) * length)
            if (row, column) == places[-1]:
                yield video[index]


def denormalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the transformer has them (1, channels, t, h, w) → as the VAE has them."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents)
    # a division by the inverse, as WanPipeline has it: in bf16 a multiplication rounds otherwise
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents)
    return latents / inverse_std + mean


def _to_rgb(vae: Any, group: torch.Tensor) -> Frames:
    """A decoder's group (channels, n, h, w), of numbers in -1 … 1 → (n, H, W, 3) bytes."""
    _check(group)
    if vae.config.patch_size is not None:
        group = unpatchify(group[None], patch_size=vae.config.patch_size)[0]
    pixels = group.float().clamp_(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def _check(group: torch.Tensor) -> None:
    if not torch.isfinite(group).all():
        raise NonFiniteOutputError(
            "The model produced frames that are not numbers (NaN or infinity), so no video was written. "
            "Another seed or a lower guidance_scale may avoid it."
        )
