"""Transformers in a single file, as published by others: GGUF or safetensors, with original or diffusers' names."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from diffusers import WanTransformer3DModel
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

from pipelines.core.model import WeightFile
from tests.support.models.wan21 import wan21_folder

State = dict[str, torch.Tensor]
PARTS = ("transformer", "transformer_2")

# the published names, independently of the code under test, which uses diffusers' table
_OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
}
_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "norm_q": "norm_q", "norm_k": "norm_k"}
_INSIDE = {
    **{
        f"{ours}.{layer}": f"{theirs}.{short}"
        for (ours, theirs), (layer, short) in product(
            (("attn1", "self_attn"), ("attn2", "cross_attn")), _ATTENTION.items()
        )
    },
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


def wide_folder(folder: Path) -> Path:
    """The small Wan2.1 with rows of 256 numbers in its transformer, and values that fp8 represents exactly."""
    wan21_folder(folder)
    for file in (folder / "transformer").iterdir():
        file.unlink()
    wide_transformer(seed=0).save_pretrained(folder / "transformer")
    return folder


def wide_transformer(seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, text_dim=32, freq_dim=32, ffn_dim=256, num_layers=2
    )
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(torch.float8_e4m3fn).float()
    return transformer


def original(name: str) -> str:
    """A tensor's name in the original repository, from its name in diffusers."""
    if name == "scale_shift_table":
        return "head.modulation"
    if name == "condition_embedder.image_embedder.pos_embed":
        return "img_emb.emb_pos"
    layer, _, leaf = name.rpartition(".")
    if leaf == "scale_shift_table":
        return f"{layer}.modulation"
    if not name.startswith("blocks."):
        return f"{_OUTSIDE[layer]}.{leaf}"
    blocks, index, inside = layer.split(".", 2)
    return f"{blocks}.{index}.{_INSIDE[inside]}.{leaf}"


def by_original_names(state: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + original(name): tensor for name, tensor in state.items()}


def write_gguf(
    path: Path, state: Mapping[str, torch.Tensor], types: Mapping[str, Type] | None = None, plain: Type = Type.F32
) -> Path:
    """Write a GGUF file of tensors: those in `types` in that format, all others in `plain`."""
    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in state.items():
        format_ = (types or {}).get(name, plain)
        writer.add_tensor(name, quantized(tensor, format_), raw_dtype=format_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized(tensor: torch.Tensor, format_: Type) -> np.ndarray:
    """A tensor in a GGUF format; random values of the size of weights where the library cannot quantize."""
    try:
        return np.asarray(gguf.quants.quantize(tensor.float().numpy(), format_))
    except NotImplementedError:
        return _random(tuple(tensor.shape), format_)


# offsets in bytes of the scales (fp16) within a block
_HALVES = {Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}


def _random(shape: tuple[int, ...], format_: Type) -> np.ndarray:
    count, size = gguf.GGML_QUANT_SIZES[format_]
    drawn = np.random.default_rng(int(format_)).integers(
        0, 256, (*shape[:-1], shape[-1] // count * size), dtype=np.uint8
    )
    blocks = drawn.reshape(-1, size)
    for offset in _HALVES[format_]:
        blocks[:, offset : offset + 2] = np.array([1e-4], dtype=np.float16).view(np.uint8)
    return drawn


def restored(tensor: torch.Tensor, format_: Type) -> torch.Tensor:
    """The dequantized values of a tensor in a GGUF format, by the library that defines it."""
    return torch.from_numpy(gguf.quants.dequantize(quantized(tensor, format_), format_)).reshape(tensor.shape)


def write_safetensors(path: Path, state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Path:
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in state.items()}, path)
    return path


def mixed_types(state: State) -> dict[str, Any]:
    """GGUF formats of the matrices by diffusers' names: K-quants where a row has a multiple of 256 numbers."""
    formats: dict[str, Any] = {
        "patch_embedding.weight": Type.F16,
        "condition_embedder.time_proj.weight": Type.Q5_K,
        "condition_embedder.time_embedder.linear_1.weight": Type.Q8_0,
        "condition_embedder.text_embedder.linear_1.weight": Type.Q4_0,
        "condition_embedder.text_embedder.linear_2.weight": Type.BF16,
        "proj_out.weight": Type.F16,
    }
    for name in state:
        if name.startswith("blocks.") and name.endswith(".weight") and state[name].ndim == 2:
            formats[name] = Type.Q6_K if "to_v" in name or "ffn.net.2" in name else Type.Q4_K
    # blocks may differ
    formats["blocks.1.ffn.net.2.weight"] = Type.Q8_0
    formats["blocks.1.attn1.to_k.weight"] = Type.F16
    return formats


def named(file: Path) -> WeightFile:
    """The entry for a weight file in a model's file."""
    return WeightFile(str(file.parent), file.name)
