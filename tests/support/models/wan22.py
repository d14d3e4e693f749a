"""Small Wan2.2 pipelines of the published layouts: with two experts, or with the residual VAE."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from tests.support.models.wan21 import text_parts, wan21_folder

CHANNELS_5B = 48

WAN22_VAE: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
"""The published VAE of Wan2.2 5B."""


def a14b_folder(folder: Path) -> Path:
    """A pipeline with two experts, the second for noise levels below 0.875."""
    wan21_folder(folder)
    torch.manual_seed(1)
    small_transformer(16).save_pretrained(folder / "transformer_2")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def ti2v_5b_folder(folder: Path) -> Path:
    """A pipeline with a VAE of 16x and 48 channels, and a timestep per token."""
    torch.manual_seed(0)
    tokenizer, text_encoder = text_parts()
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=8,
        z_dim=CHANNELS_5B,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        latents_mean=[0.0] * CHANNELS_5B,
        latents_std=[1.0] * CHANNELS_5B,
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=small_transformer(CHANNELS_5B),
        vae=vae,
        scheduler=scheduler,
        expand_timesteps=True,
    ).save_pretrained(folder)
    return folder


def small_transformer(channels: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
    )
