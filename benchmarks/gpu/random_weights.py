"""A Wan pipeline of the published shapes, or of tiny ones, with random weights.

Random weights are converted and placed by the code that does so with weights from files: `WeightFormat`,
`assign_tensors`, `place_tensor`, `place_module`.
Matrices are normal(0, 0.02) and the scales of norms are 1, so that no activation overflows. On a GPU the values are
drawn there and copied to host memory if they stay there, because a CPU would take minutes. One 4-bit matrix of each
shape is quantized and the others are copies of it, because gguf would take minutes for all of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import UMT5Config

from pipelines.core.precision import Precision
from pipelines.layers.quantized_linear import QuantizedLinear
from pipelines.loading.modules import assign_tensors, skeleton
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.catalogue import DEFAULT_MODEL, read_catalogue
from pipelines.models.family import Part
from pipelines.models.registry import family_of
from pipelines.offload.placement import place_tensor, residence
from pipelines.planning.layout import Layout, Residence
from pipelines.planning.shapes import ModelShape

STD = 0.02
SEED = 0
PROMPT_TOKENS = 64
"""The tokens of a prompt that are not padding; the text encoder computes all 512 in any case."""

FAMILY = family_of("WanPipeline")
PARTS = tuple(part for part in FAMILY.parts if not part.is_optional)


@dataclass(frozen=True, slots=True)
class Scale:
    """The configurations of a pipeline's parts, where they differ from the defaults, and its videos.

    A video is (width, height, frames), with sides in pixels.
    """

    name: str
    text_encoder: dict[str, int]
    videos: dict[str, tuple[int, int, int]]
    transformer: dict[str, int] = field(default_factory=dict)
    vae: dict[str, int] = field(default_factory=dict)


PUBLISHED = Scale(
    name="14B",
    text_encoder={
        "vocab_size": 256384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
    },
    videos={"480p": (832, 480, 81), "720p": (1280, 720, 81)},
)
"""Wan2.1-T2V-14B: its transformer and VAE have the defaults of their classes."""

SMALL = Scale(
    name="small",
    text_encoder={"vocab_size": 512, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    videos={"480p": (64, 48, 9), "720p": (96, 64, 9)},
    transformer={
        "num_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "ffn_dim": 128,
        "text_dim": 64,
        "freq_dim": 32,
    },
    vae={"base_dim": 4, "num_res_blocks": 1},
)
"""The same layout with tiny sizes, to try every line of a benchmark in seconds on any machine."""


def published_shape() -> ModelShape:
    """Return the shapes of `PUBLISHED`, from the catalogue."""
    served = read_catalogue()[DEFAULT_MODEL].model.shape
    assert served is not None
    return FAMILY.shape(served)


def write_configs(scale: Scale, folder: Path) -> ModelShape:
    """Write the parts' configurations in diffusers' layout, without weights. Return the shapes they describe."""
    with init_empty_weights():
        models = {
            "transformer": WanTransformer3DModel(**scale.transformer),
            "vae": AutoencoderKLWan(**scale.vae),
        }
    for part, model in models.items():
        model.save_config(folder / part)
    text = UMT5Config(**scale.text_encoder)
    text.save_pretrained(folder / "text_encoder")
    parameters = sum(parameter.numel() for parameter in models["vae"].parameters())
    return FAMILY.shape(
        {
            "transformer": dict(models["transformer"].config),
            "text_encoder": text.to_dict(),
            "vae": {**models["vae"].config, "parameters": parameters},
        }
    )


def fill_part(
    part: Part, configs: Path, layout: Layout, device: torch.device, dtype: torch.dtype, scratch: Path
) -> Any:
    """Return a part with random weights, each in its place in a layout. `place_module` has to be called for it.

    Weights that the layout streams from disk are written to the folder `scratch` first.
    """
    module = skeleton(resolve_name(part.model_class), configs / part.name)
    weight_format = WeightFormat(module, layout.precision if part.is_denoiser else Precision.BF16, dtype)
    named = _stored(module, weight_format, device)
    if residence(part, layout) is Residence.DISK:
        written = _written(named, scratch / part.name)
        named = (stored for name, tensor in written for stored in weight_format.restore(name, tensor).items())
    layers = len(module.blocks) if part.is_denoiser else 0
    assign_tensors(module, named, lambda name, tensor: {name: place_tensor(part, name, tensor, layout, device, layers)})
    return module


def assemble(parts: dict[str, Any], flow_shift: float) -> Any:
    """Return the parts as a WanPipeline, with the published scheduler and a `RandomTokenizer`."""
    pipe = WanPipeline(
        tokenizer=RandomTokenizer(parts["text_encoder"].config.vocab_size),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift
        ),
        **parts,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class RandomTokenizer:
    """Replaces a tokenizer whose vocabulary is not available: the same number of random tokens for every prompt."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._generator = torch.Generator().manual_seed(SEED)

    def __call__(self, prompts: list[str], *, max_length: int, **_: Any) -> SimpleNamespace:
        """Return ids and mask, (prompts, max_length)."""
        ids = torch.randint(1, self._vocab_size, (len(prompts), max_length), generator=self._generator)
        mask = (torch.arange(max_length) < PROMPT_TOKENS).long().expand(len(prompts), -1)
        return SimpleNamespace(input_ids=ids * mask, attention_mask=mask)


def _stored(module: Any, weight_format: WeightFormat, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter of a skeleton by name, random, in its stored format."""
    tied = getattr(module, "all_tied_weights_keys", {})
    scales = {f"{name}.weight_scale" for name, layer in module.named_modules() if isinstance(layer, QuantizedLinear)}
    in_q4 = {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, GGUFLinear)}
    quantized: dict[torch.Size, torch.Tensor] = {}
    shapes = [(name, at.shape) for name, at in module.named_parameters() if name not in tied and name not in scales]
    for name, shape in shapes:
        if name not in in_q4:
            yield from weight_format.convert(name, _drawn(name, shape, device)).items()
            continue
        if shape not in quantized:
            quantized[shape] = _plain(weight_format.convert(name, _drawn(name, shape, device).cpu())[name])
        yield from weight_format.restore(name, quantized[shape]).items()


def _drawn(name: str, shape: torch.Size, device: torch.device) -> torch.Tensor:
    empty = torch.empty(shape, dtype=torch.bfloat16, device=device)
    scales_a_norm = name.endswith(".gamma") or (name.endswith(".weight") and len(shape) == 1)
    return empty.fill_(1.0) if scales_a_norm else empty.normal_(0.0, STD)


def _written(named: Iterable[tuple[str, torch.Tensor]], folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Write tensors to safetensors files in a new folder, one each, and yield them mapped from there."""
    folder.mkdir(parents=True)
    for index, (name, tensor) in enumerate(named):
        path = folder / f"{index:05}.safetensors"
        save_file({name: _plain(tensor).cpu().contiguous()}, path)
        with safe_open(path, "pt") as file:
            yield name, file.get_tensor(name)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, GGUFParameter) else tensor
