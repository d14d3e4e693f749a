"""Folders like the published ones: their configurations, and weight files of their sizes that take no disk space."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipelines.core.model import ModelSpec
from pipelines.demo.folder import demo_folder
from tests.support.models.wan22 import WAN22_VAE

_CLASSES = {
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def published_folder(folder: Path, spec: ModelSpec) -> Path:
    """A folder as a model's file says that it is; its tokenizer is the demo's."""
    shape = spec.shape or {}
    index: dict[str, Any] = {"_class_name": spec.pipeline_class, **_CLASSES, "transformer_2": [None, None]}
    for part in ("transformer", "transformer_2"):
        if part in shape:
            index[part] = ["diffusers", "WanTransformer3DModel"]
            with init_empty_weights():
                transformer = WanTransformer3DModel(**{**shape[part], "patch_size": tuple(shape[part]["patch_size"])})
            transformer.save_config(folder / part)
            _write(folder / part, transformer.state_dict(), "diffusion_pytorch_model", torch.float32, shards=12)
    index |= shape.get("pipeline", {})
    if "image_encoder" in shape:
        with init_empty_weights():
            image_encoder = CLIPVisionModel(CLIPVisionConfig(**shape["image_encoder"], hidden_act="gelu"))
        image_encoder.config.save_pretrained(folder / "image_encoder")
        stored = {f"vision_model.{name}": tensor for name, tensor in image_encoder.state_dict().items()}
        _write(folder / "image_encoder", stored, "model", torch.bfloat16, shards=1)
        CLIPImageProcessorPil().save_pretrained(folder / "image_processor")
        index |= {"image_encoder": ["transformers", "CLIPVisionModel"]}
        index |= {"image_processor": ["transformers", "CLIPImageProcessor"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with init_empty_weights():
        vae = AutoencoderKLWan(**(WAN22_VAE if shape["vae"].get("is_residual") else {}))
        encoder = UMT5EncoderModel(UMT5Config(**shape["text_encoder"]))
    vae.save_config(folder / "vae")
    _write(folder / "vae", vae.state_dict(), "diffusion_pytorch_model", torch.float32, shards=1)
    encoder.config.save_pretrained(folder / "text_encoder")
    state = {name: tensor for name, tensor in encoder.state_dict().items() if name != "encoder.embed_tokens.weight"}
    _write(folder / "text_encoder", state, "model", torch.bfloat16, shards=5)
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(demo_folder() / name, folder / name)
    return folder


def _write(folder: Path, state: dict[str, torch.Tensor], stem: str, dtype: torch.dtype, shards: int) -> None:
    """Write the headers of weight files, each as long as if the weights followed."""
    folder.mkdir(parents=True, exist_ok=True)
    files = (
        [f"{stem}.safetensors"] if shards == 1 else [f"{stem}-{n:05}-of-{shards:05}.safetensors" for n in range(shards)]
    )
    for number, file in enumerate(files):
        _write_file(folder / file, list(state.items())[number::shards], dtype)
    if shards > 1:
        weight_map = {name: files[number % shards] for number, name in enumerate(state)}
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _write_file(path: Path, named: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype) -> None:
    end, header = 0, {}
    for name, tensor in named:
        start, end = end, end + tensor.numel() * dtype.itemsize
        stored = {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
        header[name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + end)
