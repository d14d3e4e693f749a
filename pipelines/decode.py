"""Latents → frames, one latent frame at a time.

`AutoencoderKLWan.decode` returns all frames at once: at 720p a second copy of several gigabytes. Its decoder is
causal in time and keeps what it needs in a feature cache, so calling it a latent frame at a time gives the same
tensors and lets each group of frames be written before the next is made.
"""

from collections.abc import Generator, Iterator
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

from pipelines.errors import NonFiniteOutputError
from pipelines.memory import Decoding
from pipelines.spec import Frames


def decode_frames(
    vae: Any, latents: torch.Tensor, decoding: Decoding = Decoding.WHOLE
) -> Generator[Frames, None, None]:
    """Decode normalised latents (1, channels, t, h, w) into groups of RGB frames (n, H, W, 3).

    The first group holds one frame, each later one as many as the VAE's temporal scale. Tiles are decoded before the
    first group comes, and joined with soft seams. Raises NonFiniteOutputError at the first group that holds NaN or
    infinity.
    """
    device, dtype = next(vae.parameters()).device, vae.dtype
    latents = _denormalise(vae, latents.to(device, dtype))
    if decoding is Decoding.TILED:
        yield from _decode_tiled(vae, latents)
    else:
        yield from _decode_whole(vae, latents)


def _decode_tiled(vae: Any, latents: torch.Tensor) -> Iterator[Frames]:
    vae.enable_tiling()
    try:
        video = vae.decode(latents, return_dict=False)[0][0]
    finally:
        vae.disable_tiling()
    first, *later = video.split([1, *[vae.config.scale_factor_temporal] * (latents.shape[2] - 1)], dim=1)
    for group in (first, *later):
        yield _to_rgb(group)


def _decode_whole(vae: Any, latents: torch.Tensor) -> Generator[Frames, None, None]:
    hidden = vae.post_quant_conv(latents)
    vae.clear_cache()
    try:
        for index in range(hidden.shape[2]):
            # each call walks the cache's slots from the first
            vae._conv_idx = [0]
            decoded = vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )
            if vae.config.patch_size is not None:
                decoded = unpatchify(decoded, patch_size=vae.config.patch_size)
            yield _to_rgb(decoded[0])
    finally:
        vae.clear_cache()


def _denormalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents)
    # a division by the inverse, as WanPipeline has it: in bf16 a multiplication rounds otherwise
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents)
    return latents / inverse_std + mean


def _to_rgb(decoded: torch.Tensor) -> Frames:
    """(3, n, H, W) in -1 … 1 → (n, H, W, 3) bytes."""
    if not torch.isfinite(decoded).all():
        raise NonFiniteOutputError(
            "The model produced frames that are not numbers (NaN or infinity), so no video was written. "
            "Another seed or a lower guidance_scale may avoid it."
        )
    pixels = decoded.float().clamp_(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
