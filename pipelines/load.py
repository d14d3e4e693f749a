"""A folder in diffusers' layout → a ready pipeline on one device."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Wan's compute path has no use for these backends, and probing them costs seconds at import
os.environ.setdefault("USE_TF", "0")
os.environ.setdefault("USE_FLAX", "0")

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from pipelines import weights
from pipelines.geometry import Grid
from pipelines.spec import LoadCallback

# room left for activations when deciding whether everything may stay on the card
RESIDENT_HEADROOM = 12 * 2**30

_MODELS: dict[str, Any] = {
    "text_encoder": UMT5EncoderModel,
    "transformer": WanTransformer3DModel,
    "transformer_2": WanTransformer3DModel,
    "vae": AutoencoderKLWan,
}


def silence_progress_bars() -> None:
    """Keep the libraries' own progress bars off the terminal: for a caller that shows progress itself."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedPipeline:
    """A diffusers pipeline ready to run, the sizes it can make, and the facts its output depends on."""

    pipe: Any
    device: torch.device
    grid: Grid
    fingerprint: dict[str, str]


def load_pipeline(folder: Path, device: str, on_progress: LoadCallback = lambda *_: None) -> LoadedPipeline:
    """Load a text-to-video pipeline onto `device` (a torch device name).

    On a CUDA device everything stays resident in bf16 when it fits with room for activations; otherwise text
    encoder and transformer are streamed block by block from host memory. On a CPU the arithmetic is bf16 where the
    processor has units for it and fp32 elsewhere.

    Raises WeightsNotFoundError or UnsupportedModelError before anything is read.
    """
    weights.check(folder, "WanPipeline")
    target = torch.device(device)
    dtype = torch.bfloat16 if target.type == "cuda" or _cpu_has_bf16() else torch.float32
    models = _load_models(folder, dtype, on_progress)
    pipe = WanPipeline.from_pretrained(folder, local_files_only=True, **models)
    pipe.set_progress_bar_config(disable=True)
    placement = _place(pipe, target)
    on_progress("ready", 1.0)
    return LoadedPipeline(
        pipe=pipe,
        device=target,
        grid=Grid.of(
            pipe.vae_scale_factor_spatial,
            pipe.transformer.config.patch_size[1:],
            pipe.vae_scale_factor_temporal,
        ),
        fingerprint={
            "weights": f"{folder.resolve().name}/{weights.digest(folder)}",
            "dtype": str(dtype).removeprefix("torch."),
            "placement": placement,
            "device": torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu",
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    )


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _load_models(folder: Path, dtype: torch.dtype, on_progress: LoadCallback) -> dict[str, Any]:
    present = [name for name in _MODELS if (folder / name / "config.json").is_file()]
    sizes = {name: weights.component_bytes(folder, name) for name in present}
    total, done = sum(sizes.values()), 0
    models = {}
    for name in present:
        on_progress(name, done / total)
        models[name] = _MODELS[name].from_pretrained(folder, subfolder=name, dtype=dtype, local_files_only=True)
        models[name].eval().requires_grad_(False)
        done += sizes[name]
    return models


def _place(pipe: Any, device: torch.device) -> str:
    if device.type != "cuda":
        pipe.to(device)
        return "resident"
    free, _ = torch.cuda.mem_get_info(device)
    needed = sum(module.get_memory_footprint() for module in pipe.components.values() if hasattr(module, "parameters"))
    if needed + RESIDENT_HEADROOM <= free:
        pipe.to(device)
        return "resident"
    # the VAE is small, and its decoder is called directly, past any hook: it always stays on the card
    pipe.vae.to(device)
    pipe.enable_group_offload(
        onload_device=device,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=True,
        exclude_modules=["vae"],
    )
    return "group-offload"
