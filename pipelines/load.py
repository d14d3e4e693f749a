"""A folder in diffusers' layout → a ready pipeline on one device."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Wan's compute path has no use for these backends, and probing them costs seconds at import
os.environ.setdefault("USE_TF", "0")
os.environ.setdefault("USE_FLAX", "0")

import diffusers
import psutil
import torch
import transformers
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from pipelines import weights
from pipelines.geometry import Geometry, Grid
from pipelines.memory import Decoding, Machine, MemoryPlan, Precision, Residence, plan
from pipelines.placement import place
from pipelines.shapes import ModelShape, read_shape
from pipelines.spec import LoadCallback

RESIDENT = MemoryPlan(Precision.BF16, Residence.RESIDENT, Residence.RESIDENT, Decoding.WHOLE, {}, 0, 1.0)
"""Everything on the device, as it was read: what a processor's one memory leaves no choice about."""

log = logging.getLogger("paddock.load")

# the largest first: nothing else is in host memory while it passes through
_MODELS: dict[str, Any] = {
    "transformer": WanTransformer3DModel,
    "text_encoder": UMT5EncoderModel,
    "vae": AutoencoderKLWan,
}


def silence_progress_bars() -> None:
    """Keep the libraries' own progress bars off the terminal: for a caller that shows progress itself."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedPipeline:
    """A diffusers pipeline ready to run, the sizes it can make, and the facts its output depends on.

    `plan` is how it is laid out; None on a CPU, where all of it is in the one memory there is.
    """

    pipe: Any
    device: torch.device
    grid: Grid
    plan: MemoryPlan | None
    fingerprint: dict[str, str]

    @property
    def decoding(self) -> Decoding:
        """How the VAE goes over a frame."""
        return Decoding.WHOLE if self.plan is None else self.plan.decoding


def load_pipeline(
    folder: Path,
    device: str,
    on_progress: LoadCallback = lambda *_: None,
    layout: MemoryPlan | None = None,
) -> LoadedPipeline:
    """Load a text-to-video pipeline onto `device` (a torch device name), laid out by a plan, or all of it resident.

    On a CPU the arithmetic is bf16 where the processor has units for it and fp32 elsewhere.

    Raises WeightsNotFoundError or UnsupportedModelError before anything is read.
    """
    weights.check(folder, "WanPipeline")
    target = torch.device(device)
    dtype = torch.bfloat16 if target.type == "cuda" or _cpu_has_bf16() else torch.float32
    models = _load_models(folder, dtype, layout or RESIDENT, target, on_progress)
    pipe = WanPipeline.from_pretrained(folder, local_files_only=True, **models)
    pipe.set_progress_bar_config(disable=True)
    on_progress("ready", 1.0)
    return LoadedPipeline(
        pipe=pipe,
        device=target,
        grid=Grid.of(
            pipe.vae_scale_factor_spatial,
            pipe.transformer.config.patch_size[1:],
            pipe.vae_scale_factor_temporal,
        ),
        plan=layout,
        fingerprint={
            "weights": f"{folder.resolve().name}/{weights.digest(folder)}",
            "dtype": str(dtype).removeprefix("torch."),
            "plan": "resident" if layout is None else layout.name,
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


def choose_layout(folder: Path, device: str, sizes: Sequence[tuple[int, int, int]]) -> MemoryPlan | None:
    """The plan for weights on a device and host as they are now; None on a CPU, where there is nothing to choose."""
    if torch.device(device).type != "cuda":
        return None
    return choose_plan(read_shape(folder), sizes, this_machine(device))


def this_machine(device: str) -> Machine:
    """What is free now of a CUDA device and of the host."""
    free, _ = torch.cuda.mem_get_info(device)
    return Machine(free, psutil.virtual_memory().available, torch.cuda.get_device_capability(device))


def choose_plan(shape: ModelShape, sizes: Sequence[tuple[int, int, int]], machine: Machine) -> MemoryPlan:
    """The plan for the first of `sizes` (width, height, frames) that fits, else the last one's, told in the log."""
    for size in sizes:
        chosen = plan(shape, Geometry.fit(*size, shape.grid), machine)
        if chosen.fits(machine):
            return chosen
        log.warning("videos of %dx%d and %d frames may not fit. %s", *size, chosen.shortfall(machine))
    return chosen


def _load_models(
    folder: Path, dtype: torch.dtype, layout: MemoryPlan, device: torch.device, on_progress: LoadCallback
) -> dict[str, Any]:
    """Read each model and bring it to its place before the next is read."""
    sizes = {name: weights.component_bytes(folder, name) for name in _MODELS}
    total, done = sum(sizes.values()), 0
    models = {}
    for name, kind in _MODELS.items():
        on_progress(name, done / total)
        models[name] = kind.from_pretrained(folder, subfolder=name, dtype=dtype, local_files_only=True)
        models[name].eval().requires_grad_(False)
        place(name, models[name], layout, device)
        done += sizes[name]
    return models
