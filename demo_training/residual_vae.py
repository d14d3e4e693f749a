"""A small VAE of Wan2.2's layout: 16x in space, 4x in time. It decodes a full-size video on two cores in seconds."""

from typing import Any

from diffusers import AutoencoderKLWan

PATCH = 4


def residual_vae(base_dim: int, latent_channels: int) -> Any:
    """An untrained VAE. Its latents count as standard normal until their mean and deviation are measured."""
    return AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=latent_channels,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * latent_channels,
        latents_std=[1.0] * latent_channels,
        is_residual=True,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        scale_factor_spatial=16,
    )
