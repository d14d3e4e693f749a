"""A folder in diffusers' layout → a ready pipeline on one device."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from pipelines.core.errors import UnsupportedModelError, WeightFormatError
from pipelines.core.geometry import Grid
from pipelines.core.model import TRANSFORMERS, LatentRgb, Lora, WeightFile
from pipelines.core.precision import Precision
from pipelines.core.progress import LoadCallback
from pipelines.hub import local as weights
from pipelines.layers.cpu_conv3d import use_onednn
from pipelines.loading import single_file
from pipelines.loading.converted_cache import convert_once
from pipelines.loading.lora import Loras
from pipelines.loading.modules import MODEL_CLASSES, StoredTensors, headers, load_weights, skeleton
from pipelines.loading.progress import byte_counter, iter_parts
from pipelines.loading.weight_format import WeightFormat
from pipelines.offload.placement import place_module, place_tensor, residence
from pipelines.planning.layout import Decoding, Layout, Residence
from pipelines.stages.preview.latent_rgb import read_latent_rgb
from pipelines.stages.wan_pipeline import ResumableWanPipeline

CACHE = Path("~/.cache/paddock").expanduser()
"""Where weights are kept in the form a plan has them, unless another folder is named."""


log = logging.getLogger("paddock.load")


def silence_progress_bars() -> None:
    """Keep the libraries' own progress bars off the terminal: for a caller that shows progress itself."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedPipeline:
    """A diffusers pipeline ready to run, the sizes it can make, and the facts its output depends on.

    `layout` is how it is laid out; None on a CPU, where all of it is in the one memory there is. `latent_rgb` is the
    map for previews that came with the weights, if one did.
    """

    pipe: Any
    device: torch.device
    grid: Grid
    layout: Layout | None
    fingerprint: dict[str, str]
    latent_rgb: LatentRgb | None = None

    @property
    def decoding(self) -> Decoding:
        """How the VAE goes over a frame."""
        return Decoding.WHOLE if self.layout is None else self.layout.decoding

    @property
    def batched(self) -> bool:
        """Whether both passes of guidance are computed as one batch."""
        return self.layout is not None and self.layout.batched


def load_pipeline(
    folder: Path,
    device: str,
    on_progress: LoadCallback = lambda *_: None,
    layout: Layout | None = None,
    cache: Path = CACHE,
    loras: Sequence[Lora] = (),
    files: Sequence[WeightFile] = (),
) -> LoadedPipeline:
    """Load a text-to-video pipeline onto `device` (a torch device name), by a layout, or all of it resident.

    The weights of transformers that `files` are for come from these, everything else from `folder`.

    On a CPU the arithmetic is bf16 where the processor has units for it and fp32 elsewhere. Weights that the layout
    keeps in another form than the files are written to `cache` once, and read from there the next time.

    Raises WeightsNotFoundError or UnsupportedModelError before anything is read, and StorageError.
    """
    sources = weights.locate_files(files)
    _check(folder, sources, loras)
    target = torch.device(device)
    dtype = torch.bfloat16 if target.type == "cuda" or _cpu_has_bf16() else torch.float32
    changes = {lora: weights.locate_file(lora.repo, lora.file, lora.revision) for lora in loras}
    models = {
        part: _load_part(
            folder,
            part,
            sources.get(part),
            dtype,
            layout or Layout(),
            target,
            cache,
            [(path, lora.strength) for lora, path in changes.items() if lora.part == part],
            report,
        )
        for part, report in iter_parts(folder, sources, on_progress)
    }
    if dtype is torch.float32:
        use_onednn(models["vae"])
    pipe = ResumableWanPipeline.from_pretrained(folder, local_files_only=True, **models)
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
        layout=layout,
        fingerprint={
            "weights": f"{folder.resolve().name}/{weights.digest(folder, sources)}",
            "files": " ".join(
                f"{part} {path.name}/{weights.file_digest(path)}" for part, path in sorted(sources.items())
            ),
            "loras": " ".join(
                f"{lora.part} {weights.file_digest(path)}*{lora.strength}" for lora, path in changes.items()
            ),
            "dtype": str(dtype).removeprefix("torch."),
            "precision": str(dtype).removeprefix("torch.") if layout is None else str(layout.precision),
            "plan": "resident" if layout is None else layout.name,
            "device": torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu",
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "gguf": version("gguf"),
            "torchao": version("torchao"),
            "transformers": transformers.__version__,
        },
        latent_rgb=read_latent_rgb(folder),
    )


def _check(folder: Path, sources: Mapping[str, Path], loras: Sequence[Lora]) -> None:
    """Raise WeightsNotFoundError or UnsupportedModelError unless everything is there and goes together."""
    weights.check(folder, "WanPipeline", sources)
    for part, path in sources.items():
        single_file.check(path, skeleton(MODEL_CLASSES[part], folder / part))
    for lora in loras:
        if not (folder / lora.part).is_dir():
            raise UnsupportedModelError(f"{folder} has no {lora.part}, which {lora.file} is for.")
        if lora.part in sources and single_file.is_quantized(sources[lora.part]):
            raise UnsupportedModelError(
                f"{lora.file} cannot be merged into {sources[lora.part].name}, whose weights are quantized: leave out "
                "the LoRA, or name a file that is not quantized."
            )


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _load_part(
    folder: Path,
    part: str,
    file: Path | None,
    dtype: torch.dtype,
    layout: Layout,
    device: torch.device,
    cache: Path,
    loras: Sequence[tuple[Path, float]],
    report: Callable[[float], None],
) -> Any:
    """Read one part of a pipeline, its weights from `file` if given, and move each of its tensors to its place."""
    module = skeleton(MODEL_CLASSES[part], folder / part)
    merged = Loras(loras, part) if loras else None
    if merged is not None:
        merged.check(module)
    source = folder / part if file is None else file
    precision = _precision(part, file, layout)
    weight_format = WeightFormat(module, precision, dtype, merged, dict(headers(source)) if file is not None else None)
    convert = weight_format.convert
    if _is_stored_anew(precision, residence(part, layout), weight_format, source):
        changes = "".join(f"-{weights.file_digest(path)}*{strength}" for path, strength in loras)
        name = f"{part}-{precision}-{str(dtype).removeprefix('torch.')}{changes}"
        made_from = weights.digest(folder) if file is None else weights.file_digest(file)
        target = cache / "weights" / made_from / name
        try:
            source = convert_once(source, weight_format, target, byte_counter(source, report))
            convert = weight_format.restore
        except WeightFormatError as error:
            if residence(part, layout) is Residence.DISK:
                raise
            # only what runs from the disk needs it there; the rest is made anew at each start
            log.warning("%s", error)
    layers = len(module.blocks) if part in TRANSFORMERS else 0

    def brought(name: str, tensor: torch.Tensor) -> StoredTensors:
        kept = convert(name, tensor)
        return {each: place_tensor(part, each, kept[each], layout, device, layers) for each in kept}

    load_weights(module, source, brought, byte_counter(source, report))
    place_module(part, module, layout, device)
    return module


def _precision(part: str, file: Path | None, layout: Layout) -> Precision:
    """What a part is kept in: a quantized file as it is, all else as the layout says, if it is for that."""
    if part not in TRANSFORMERS:
        return Precision.BF16
    if file is not None and single_file.is_quantized(file):
        return Precision.GGUF
    return Precision.BF16 if layout.precision is Precision.GGUF else layout.precision


def _is_stored_anew(precision: Precision, where: Residence, weight_format: WeightFormat, source: Path) -> bool:
    """Whether a part is written in the form it is kept in, to be read from there."""
    if precision is Precision.GGUF:
        # its matrices are mapped as they are, and the rest is small
        return False
    return precision is not Precision.BF16 or (where is Residence.DISK and weight_format.changes(source))
