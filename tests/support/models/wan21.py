"""A small Wan2.1 pipeline of the published layout, with the published VAE's stages and several weight files."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

CHANNELS = 16


def text_parts() -> tuple[T5TokenizerFast, UMT5EncoderModel]:
    """A tokenizer of single letters and an encoder for it."""
    letters = [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0)
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    )
    return tokenizer, text_encoder


def wan21_folder(folder: Path) -> Path:
    """Save it to `folder` in diffusers' layout, with a sharded transformer like the published one."""
    torch.manual_seed(0)
    tokenizer, text_encoder = text_parts()
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2
    )
    vae = AutoencoderKLWan(base_dim=4, num_res_blocks=1)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, vae=vae, scheduler=scheduler
    )
    pipe.save_pretrained(folder)
    transformer.save_pretrained(folder / "transformer", max_shard_size="50KB")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    return folder
