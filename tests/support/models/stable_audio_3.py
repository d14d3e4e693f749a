"""Small random Stable Audio 3 models in the layout in which Stability AI publishes theirs.

The names are those of the modules of github.com/Stability-AI/stable-audio-3, written down here apart from the tables of
the conversion, and in the other direction.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderSAME, StableAudio3DiTModel, StableAudio3DurationEmbedder
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration, T5GemmaModuleConfig

from pipelines.layers.stable_audio_3 import ChunkedAutoencoderSAME

WIDTH = 32
LATENT = 8
PATCH = 4
STRIDE = 4
RATE = 800
MAX_TOKENS = 12
TEXT_ENCODER = "t5gemma-b-b-ul2"

_DIT = (
    ("prompt_padding_embedding", "conditioner.conditioners.prompt.padding_embedding"),
    ("transformer_blocks.", "model.model.transformer.layers."),
    ("proj_in.", "model.model.transformer.project_in."),
    ("proj_out.", "model.model.transformer.project_out."),
    ("memory_tokens", "model.model.transformer.memory_tokens"),
    ("rotary_pos_emb.", "model.model.transformer.rotary_pos_emb."),
    ("global_cond_embedder.", "model.model.transformer.global_cond_embedder."),
    ("", "model.model."),
)


def model_config(size: str) -> dict[str, Any]:
    """`model_config.json` of a small or medium model: it has the keys that the published ones have."""
    is_small = size == "small"
    resampling = {
        "channels": 32,
        "c_mults": [2],
        "strides": [STRIDE],
        "latent_dim": LATENT,
        "transformer_depths": [4],
        "checkpointing": False,
        "differential": True,
        "dim_heads": 32,
        "variable_stride": True,
        **(
            {"dyt": True, "chunk_size": 2 * STRIDE, "chunk_midpoint_shift": True}
            if is_small
            else {"sliding_window": [1, 1]}
        ),
    }
    wide = {"conv_mapping": True} if is_small else {}
    return {
        "model_type": "diffusion_cond_inpaint",
        "sample_size": 16000,
        "sample_rate": RATE,
        "audio_channels": 2,
        "model": {
            "io_channels": LATENT,
            "pretransform": {
                "type": "autoencoder",
                "iterate_batch": True,
                "config": {
                    "pretransform": {"type": "patched", "config": {"patch_size": PATCH, "channels": 2}},
                    "encoder": {"type": "same", "config": {"in_channels": 2 * PATCH, "mask_noise": 0.0, **resampling}},
                    "decoder": {
                        "type": "same",
                        "config": {
                            "out_channels": 2 * PATCH,
                            "mask_noise": 0.01,
                            "sinusoidal_blocks": [0 if is_small else 3],
                            **wide,
                            **resampling,
                        },
                    },
                    "bottleneck": {
                        "type": "softnorm",
                        "config": {"dim": LATENT, "noise_augment_dim": 0, "noise_regularize": True, "auto_scale": True},
                    },
                    "latent_dim": LATENT,
                    "downsampling_ratio": PATCH * STRIDE,
                    "io_channels": 2,
                },
            },
            "conditioning": {
                "configs": [
                    {
                        "id": "prompt",
                        "type": "t5gemma",
                        "config": {
                            "model_name": "google/t5gemma-b-b-ul2",
                            "max_length": MAX_TOKENS,
                            "padding_mode": "learned",
                            "repo_id": f"stabilityai/stable-audio-3-{size}",
                            "subfolder": TEXT_ENCODER,
                        },
                    },
                    {
                        "id": "seconds_total",
                        "type": "number",
                        "config": {"min_val": 0, "max_val": 384, "fourier_features_type": "expo"},
                    },
                ],
                "cond_dim": WIDTH,
            },
            "diffusion": {
                "type": "dit",
                "diffusion_objective": "rf_denoiser" if is_small else "rectified_flow",
                "cross_attention_cond_ids": ["prompt", "seconds_total"],
                "global_cond_ids": ["seconds_total"],
                "local_add_cond_ids": ["inpaint_mask", "inpaint_masked_input"],
                "distribution_shift_options": {"min_length": 256, "max_length": 4096},
                "mask_padding_attention": True,
                "config": {
                    "io_channels": LATENT,
                    "embed_dim": 128,
                    "depth": 2,
                    "num_heads": 2,
                    "cond_token_dim": WIDTH,
                    "global_cond_dim": WIDTH,
                    "local_add_cond_dim": LATENT + 1,
                    "transformer_type": "continuous_transformer",
                    "global_cond_type": "adaLN",
                    "timestep_features_type": "expo",
                    "timestep_features_dim": 16,
                    "num_memory_tokens": 5,
                    "norm_type": "rms_norm",
                    "norm_kwargs": {"force_fp32": True},
                    "attn_kwargs": {"qk_norm": "rms", "differential": not is_small},
                    "ff_kwargs": {"mult": 2},
                },
            },
        },
    }


def diffusers_models(size: str) -> dict[str, Any]:
    """The parts of that model, as diffusers' classes, with random weights that 16 bits hold exactly."""
    shared: dict[str, Any] = {
        "audio_channels": 2,
        "patch_size": PATCH,
        "encoder_channels": 32,
        "encoder_c_mults": (2,),
        "encoder_strides": (STRIDE,),
        "encoder_transformer_depths": (4,),
        "latent_dim": LATENT,
        "dim_heads": 32,
        "sampling_rate": RATE,
    }
    vae = (
        ChunkedAutoencoderSAME(**shared, chunk_size=2 * STRIDE, shifted_chunks=True, decoder_mapping_width=3)
        if size == "small"
        else AutoencoderSAME(**shared, decoder_sinusoidal_blocks=(3,))
    )
    models = {
        "transformer": StableAudio3DiTModel(
            io_channels=LATENT,
            embed_dim=128,
            depth=2,
            num_heads=2,
            cond_token_dim=WIDTH,
            global_cond_dim=WIDTH,
            local_add_cond_dim=LATENT + 1,
            timestep_features_dim=16,
            ff_mult=2,
            num_memory_tokens=5,
            use_differential_attention=size == "medium",
        ),
        "vae": vae,
        "duration_embedder": StableAudio3DurationEmbedder(output_dim=WIDTH, max_val=384.0),
    }
    generator = torch.Generator().manual_seed(7)
    for model in models.values():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
            parameter.data = values.half().float()
        model.eval().requires_grad_(False)
    vae.bottleneck.running_std.fill_(1.5)
    return models


def published_state(size: str, models: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of the models by the names, and in the order of rows, in which they are published."""
    state = {}
    for name, tensor in models["transformer"].state_dict().items():
        start, published = next(row for row in _DIT if name.startswith(row[0]))
        renamed = published + name.removeprefix(start)
        renamed = renamed.replace(".ff.proj_in.", ".ff.ff.0.proj.").replace(".ff.proj_out.", ".ff.ff.2.")
        is_fused = size == "medium" and name.endswith("self_attn.to_qkv.weight")
        state[renamed] = _published_order(tensor) if is_fused else tensor
    for name, tensor in models["vae"].state_dict().items():
        is_fused = name.endswith(".attn.to_qkv.weight")
        state[f"pretransform.model.{_same_name(name)}"] = _published_order(tensor) if is_fused else tensor
    for side, layer in (("encoder", 0), ("decoder", 3)):
        for index in range(4):
            frequencies = 1 / 10000 ** (torch.arange(0, 16, 2) / 16)
            state[f"pretransform.model.{side}.layers.{layer}.transformers.{index}.rope.inv_freq"] = frequencies
    state["pretransform.model.bottleneck.noise_scaling_factor"] = torch.ones(1, 0, 1)
    linear = "conditioner.conditioners.seconds_total.embedder.embedding.1"
    state[f"{linear}.weight"] = models["duration_embedder"].linear.weight
    state[f"{linear}.bias"] = models["duration_embedder"].linear.bias
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def write_published(folder: Path, size: str) -> dict[str, Any]:
    """Write a published folder, and return the models with its weights: diffusers', and `text_encoder`."""
    folder.mkdir(parents=True)
    (folder / "model_config.json").write_text(json.dumps(model_config(size)))
    (folder / "LICENSE.md").write_text("A licence.")
    models = diffusers_models(size)
    save_file(published_state(size, models), folder / "model.safetensors")
    return {**models, "text_encoder": _write_text_encoder(folder / TEXT_ENCODER)}


def _published_order(fused: torch.Tensor) -> torch.Tensor:
    """Put (query, query 2, key, key 2, value) into the order query, key, value, query 2, key 2."""
    first_query, second_query, first_key, second_key, value = fused.chunk(5)
    return torch.cat([first_query, first_key, value, second_query, second_key])


def _same_name(name: str) -> str:
    name = name.replace("bottleneck.scale", "bottleneck.scaling_factor")
    name = re.sub(r"^encoder\.blocks\.0\.", "encoder.layers.0.", name)
    name = re.sub(r"^decoder\.blocks\.0\.", "decoder.layers.3.", name)
    name = name.replace("encoder.proj.", "encoder.layers.2.").replace("decoder.proj.", "decoder.layers.1.")
    name = name.replace(".norm_attn.", ".pre_norm.").replace(".norm_ff.", ".ff_norm.").replace(".attn.", ".self_attn.")
    return name.replace(".ff.proj_in.", ".ff.ff.0.proj.").replace(".ff.proj_out.", ".ff.ff.2.")


def _write_text_encoder(folder: Path) -> Any:
    """Write a whole T5Gemma with its tokenizer, in bfloat16; return its encoder."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdeorstw", "▁a", "do"]
    vocabulary = {token: index for index, token in enumerate([*special, *pieces])}
    tokenizer = Tokenizer(
        BPE(vocabulary, [("▁", "a"), ("d", "o")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    module = {
        "vocab_size": len(vocabulary),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
    }
    config = T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**module),
        decoder=T5GemmaModuleConfig(**module, cross_attention_hidden_size=WIDTH),
        vocab_size=len(vocabulary),
    )
    torch.manual_seed(3)
    model = T5GemmaForConditionalGeneration(config).to(torch.bfloat16).eval().requires_grad_(False)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GemmaTokenizer", "padding_side": "right", "model_max_length": 10**30})
    )
    return model.get_encoder()
