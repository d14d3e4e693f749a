"""Small pipelines in the layouts of Wan's models that make videos from images, with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.support.models.wan21 import text_parts

IMAGE_DIM, IMAGE_TOKENS, SIDE = 32, 5, 28


def i2v_folder(folder: Path) -> Path:
    """Wan2.1 I2V 14B: a transformer that attends to an image encoder's tokens."""
    return _folder(folder, [image_transformer()], encodes=True)


def flf2v_folder(folder: Path) -> Path:
    """Wan2.1 FLF2V 14B: the same for two images."""
    return _folder(folder, [image_transformer(pos_embed_seq_len=2 * IMAGE_TOKENS)], encodes=True)


def i2v_a14b_folder(folder: Path) -> Path:
    """Wan2.2 I2V A14B: two experts without an image encoder, the second for noise levels below 0.9."""
    experts = [image_transformer(seed, image_dim=None, added_kv_proj_dim=None) for seed in (2, 3)]
    return _folder(folder, experts, encodes=False, boundary_ratio=0.9)


def image_transformer(seed: int = 2, **changes: Any) -> WanTransformer3DModel:
    """A transformer that sees the noise, a mask and the latents of the images."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 36,
        "out_channels": 16,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "image_dim": IMAGE_DIM,
        "added_kv_proj_dim": 24,
    }
    model = WanTransformer3DModel(**{**config, **changes})
    if changes.get("pos_embed_seq_len"):
        # the class begins with zeros
        torch.nn.init.normal_(model.condition_embedder.image_embedder.pos_embed)
    return model


def image_encoder() -> CLIPVisionModel:
    """An image encoder of few tokens."""
    torch.manual_seed(4)
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=IMAGE_DIM,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=14,
            hidden_act="gelu",
        )
    )


def _folder(folder: Path, transformers: list[WanTransformer3DModel], *, encodes: bool, **settings: Any) -> Path:
    torch.manual_seed(0)
    tokenizer, text_encoder = text_parts()
    sides = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    parts = dict(zip(("transformer", "transformer_2"), transformers, strict=False))
    WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=AutoencoderKLWan(base_dim=4, num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        image_processor=CLIPImageProcessorPil(**sides) if encodes else None,
        image_encoder=image_encoder() if encodes else None,
        **parts,
        **settings,
    ).save_pretrained(folder)
    if encodes:
        # as published
        change(folder / "model_index.json", image_processor=["transformers", "CLIPImageProcessor"])
        change(folder / "image_processor" / "preprocessor_config.json", image_processor_type="CLIPImageProcessor")
    return folder


def change(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
