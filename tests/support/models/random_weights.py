"""A small pipeline of Wan's classes with random weights, faster than the demo model."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from demo_training.residual_vae import residual_vae

SEED = 20261124
LATENT_CHANNELS = 16
TEXT_DIM = 64


def random_folder(folder: Path, *, plain: bool = False) -> Path:
    """Save it to `folder` in diffusers' layout. With `plain` all frames are equal: a large video then takes seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        tokenizer = T5TokenizerFast(vocab=_vocabulary(), extra_ids=0)
        text_encoder = UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
        )
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            text_dim=TEXT_DIM,
            freq_dim=64,
            ffn_dim=96,
            num_layers=1,
            patch_size=(1, 2, 2),
        )
        vae = _plain_vae() if plain else residual_vae(base_dim=4, latent_channels=LATENT_CHANNELS)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=transformer,
        vae=vae,
        scheduler=scheduler,
    ).save_pretrained(folder)
    return folder


def _plain_vae() -> Any:
    """A VAE of 128x that decodes all latents to the same frame, which is encoded quickly."""
    config = residual_vae(base_dim=4, latent_channels=LATENT_CHANNELS).config
    pixels = 8 * config["patch_size"]
    of_larger_patches = {
        "patch_size": pixels,
        "in_channels": 3 * pixels**2,
        "out_channels": 3 * pixels**2,
        "scale_factor_spatial": 8 * config["scale_factor_spatial"],
    }
    vae = AutoencoderKLWan.from_config({**config, **of_larger_patches})
    torch.nn.init.zeros_(vae.decoder.conv_out.weight)
    return vae


def _vocabulary() -> list[tuple[str, float]]:
    """A unigram vocabulary of single characters: Latin and the common Chinese ones."""
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    latin = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0x180))]
    chinese = [chr(code) for code in (*range(0x3001, 0x3003), *range(0x4E00, 0x9FA6))]
    return [*specials, ("▁", -2.0), *((character, -10.0) for character in latin + chinese)]
