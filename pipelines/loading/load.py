"""A folder in diffusers' layout → a pipeline that is ready on one device."""

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import diffusers
import torch
import transformers

from pipelines.core.cache_folder import CacheFolder
from pipelines.core.errors import UnsupportedModelError, WeightFormatError
from pipelines.core.geometry import Grid
from pipelines.core.home import expanded
from pipelines.core.model import LatentRgb, ModelSpec
from pipelines.core.precision import Precision
from pipelines.core.progress import LoadCallback
from pipelines.hub import local as weights
from pipelines.hub.folder import check as check_folder
from pipelines.hub.folder import part_digest
from pipelines.layers.cpu_conv3d import use_onednn
from pipelines.loading.converted_cache import convert_once, converted_weights, made_from
from pipelines.loading.facts import activations, fingerprint, portable_facts
from pipelines.loading.lora.loras import Loras
from pipelines.loading.modules import StoredTensors, TensorSource, WeightSource, load_weights, skeleton
from pipelines.loading.progress import byte_counter, iter_parts
from pipelines.loading.request_loras import LoadedPart, RequestLoras
from pipelines.loading.single_file import SingleFile
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.family import InputUse, ModelFamily, Part, PartKind
from pipelines.models.registry import family_of
from pipelines.offload.placement import is_mapped, place_module, place_tensor, residence
from pipelines.planning.layout import Decoding, Layout, Residence
from pipelines.planning.shapes import ModelShape
from pipelines.stages.conditioning.image_encoding import read_image_processor
from pipelines.stages.conditioning.tokenizer import read_tokenizer
from pipelines.stages.preview.latent_rgb import read_latent_rgb
from pipelines.stages.resumable import resumable
from pipelines.stages.sampling.samplers import Samplers

CACHE = Path("~/.cache/paddock")
"""The default folder for converted weights, compiled blocks and measurements. It is expanded where it is used: a user
without a home folder can name another one."""

log = logging.getLogger("paddock.load")


def silence_progress_bars() -> None:
    """Turn off the libraries' progress bars, for a caller that shows the progress itself."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedPipeline:
    """A diffusers pipeline that is ready to run, its family and shape, and the facts its output depends on.

    `image_pipe` is the one for requests with an image, on the same parts; None if the weights take none, and `pipe`
    itself if they need one. `samplers` make the scheduler of each generation. `layout` is None on a CPU, which has only
    one memory. `loras` merges those of requests into the weights. `latent_rgb` is the map for previews from the folder
    of the weights, if there is one; `text_encoder_digest` is a fingerprint of its text encoder. `portable` says of some
    facts of the fingerprint the same for every machine.
    """

    family: ModelFamily
    shape: ModelShape
    pipe: Any
    image_pipe: Any | None
    samplers: Samplers
    device: torch.device
    layout: Layout | None
    fingerprint: dict[str, str]
    loras: RequestLoras
    latent_rgb: LatentRgb | None = None
    text_encoder_digest: str = ""
    portable: Mapping[str, str] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The sizes and lengths that the pipeline can make."""
        return self.shape.grid

    @property
    def pipes(self) -> list[Any]:
        """The pipelines that share the parts."""
        return list(dict.fromkeys(pipe for pipe in (self.pipe, self.image_pipe) if pipe is not None))

    @property
    def vae(self) -> Any:
        """The pipeline's VAE."""
        return getattr(self.pipe, self.family.vae.name)

    @property
    def denoisers(self) -> list[Any]:
        """The pipeline's transformers."""
        found = (getattr(self.pipe, part.name, None) for part in self.family.denoisers)
        return [model for model in found if model is not None]

    @property
    def decoding(self) -> Decoding:
        """How the VAE decodes a frame."""
        return Decoding.WHOLE if self.layout is None else self.layout.decoding

    @property
    def batched(self) -> bool:
        """Whether guidance's two passes are computed as one batch."""
        return self.layout is not None and self.layout.batched


def load_pipeline(
    spec: ModelSpec,
    folder: Path,
    device: str,
    on_progress: LoadCallback = lambda *_: None,
    layout: Layout | None = None,
    cache: Path = CACHE,
    loras_dir: Path | None = None,
) -> LoadedPipeline:
    """Load a model's pipeline onto `device` (a torch device name) by a layout; without one all parts are resident.

    Weights come from the model's single files, all others from `folder`. On a CPU the dtype is bf16 if the processor
    has units for it, else fp32. Weights that the layout stores in another format than the files are written to `cache`
    once, and read from there afterwards. `loras_dir` has the LoRAs that requests may name.

    Raises WeightsNotFoundError or UnsupportedModelError before it reads any weights, and WeightFormatError.
    """
    family = family_of(spec.pipeline_class)
    sources = weights.locate_files(spec.files)
    skeletons = _check(family, folder, sources, spec)
    samplers = Samplers.read(folder, spec.sampler, spec.schedule, set((spec.flow_shift or {}).values()))
    settings = _settings(folder, family, skeletons)
    shape = family.read_shape(folder)
    target = torch.device(device)
    dtype = torch.bfloat16 if target.type == "cuda" or _cpu_has_bf16() else torch.float32
    changes = {lora: weights.locate_file(lora.repo, lora.file, lora.revision) for lora in spec.loras}
    converted = converted_weights(expanded(cache, "cache"))
    loader = _PartLoader(family, folder, dtype, layout or Layout(accuracy=spec.accuracy), target, converted)
    models = {
        part.name: loader.load(
            part,
            skeletons.pop(part.name),
            sources.get(part.name),
            [(path, lora.strength) for lora, path in changes.items() if lora.part == part.name],
            report,
        )
        for part, report in iter_parts(family, folder, sources, on_progress)
    }
    converted.clean()
    if dtype is torch.float32:
        use_onednn(models[family.vae.name])
    pipe = resumable(resolve_name(family.pipeline)).from_pretrained(
        folder, local_files_only=True, scheduler=samplers.make(), **settings, **models
    )
    pipe.set_progress_bar_config(disable=True)
    takes_image = family.images(shape).first is not InputUse.NONE
    on_progress("ready", 1.0)
    return LoadedPipeline(
        family=family,
        shape=shape,
        pipe=pipe,
        image_pipe=_image_pipe(family, pipe) if takes_image else None,
        samplers=samplers,
        device=target,
        layout=layout,
        fingerprint=fingerprint(family, folder, sources, changes, target, dtype, layout) | activations(loader.layout),
        portable=portable_facts(family, folder, sources, changes),
        loras=RequestLoras(spec, family, loader.loaded, target, loras_dir),
        latent_rgb=read_latent_rgb(folder),
        text_encoder_digest=part_digest(folder / family.text_encoder.name, family.text_encoder.library),
    )


def _settings(folder: Path, family: ModelFamily, skeletons: Mapping[str, Any]) -> dict[str, Any]:
    """Return the components without weights that the libraries would read in another way."""
    settings = {"tokenizer": read_tokenizer(folder / "tokenizer", skeletons[family.text_encoder.name].config)}
    if "image_processor" in family.read_index(folder).components:
        side = skeletons["image_encoder"].config.image_size
        settings["image_processor"] = read_image_processor(folder / "image_processor", side)
    return settings


def _image_pipe(family: ModelFamily, pipe: Any) -> Any:
    """Return the family's pipeline for images on the parts, and with the settings, of that for text."""
    assert family.image_pipeline is not None
    if family.image_pipeline == family.pipeline:
        return pipe
    settings = {name: pipe.config[name] for name in ("boundary_ratio", "expand_timesteps")}
    image_pipe = resumable(resolve_name(family.image_pipeline))(**pipe.components, **settings)
    image_pipe.set_progress_bar_config(disable=True)
    return image_pipe


def _check(family: ModelFamily, folder: Path, sources: Mapping[str, Path], spec: ModelSpec) -> dict[str, Any]:
    """Return the skeletons of the parts, by name.

    Raises WeightsNotFoundError or UnsupportedModelError unless all files are there and fit together.
    """
    check_folder(folder, spec.pipeline_class, sources)
    skeletons = {}
    for part in family.used(family.read_index(folder)):
        skeletons[part.name] = skeleton(resolve_name(part.model_class), folder / part.name)
        WeightSource(sources.get(part.name, folder / part.name), part).check(skeletons[part.name])
    for lora in spec.loras:
        if lora.part not in skeletons:
            raise UnsupportedModelError(f"{folder} has no {lora.part}, which {lora.file} is for.")
    return skeletons


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@dataclass(frozen=True, slots=True)
class _PartLoader:
    """Loads parts of a pipeline, each tensor to its place in a layout."""

    family: ModelFamily
    folder: Path
    dtype: torch.dtype
    layout: Layout
    device: torch.device
    cache: CacheFolder
    loaded: list[LoadedPart] = field(default_factory=list)
    """The loaded parts that LoRAs may change."""

    def load(
        self,
        part: Part,
        module: Any,
        file: Path | None,
        loras: Sequence[tuple[Path, float]],
        report: Callable[[float], None],
    ) -> Any:
        """Return a part, given as a skeleton, with its weights: from `file` if given, changed by LoRAs."""
        merged = Loras(loras, self.family, part.name) if loras else None
        if merged is not None:
            merged.check(module)
        published = WeightSource(self.folder / part.name if file is None else file, part)
        source: TensorSource = published
        precision = self._precision(part, file)
        named = dict(published.headers()) if file is not None else None
        dtype = self._dtype(part)
        weight_format = WeightFormat(module, precision, dtype, merged, named)
        convert = weight_format.convert
        where = residence(part, self.layout)
        if _is_converted_on_disk(precision, where, weight_format, published):
            facts = made_from(published, precision, dtype, loras)
            try:
                source = converted = convert_once(
                    published,
                    weight_format,
                    self.cache,
                    facts,
                    [path for path, _ in loras],
                    byte_counter(published.nbytes, report),
                )
                # they may be memory-mapped for as long as the module exists
                weakref.finalize(module, converted.entry.release)
                convert = weight_format.restore
            except WeightFormatError as error:
                if where is Residence.DISK:
                    raise
                # weights that are streamed from disk have to be there; others can be converted at each start
                log.warning("%s", error)
        layers = len(module.blocks) if part.is_denoiser else 0

        def placed(name: str, tensor: torch.Tensor) -> StoredTensors:
            stored = convert(name, tensor)
            return {each: place_tensor(part, each, stored[each], self.layout, self.device, layers) for each in stored}

        load_weights(module, source, placed, byte_counter(source.nbytes, report))
        if part.is_denoiser:
            resolve_name(self.family.activations)(module, self.layout.accuracy, self.layout.slice_tokens)
        place_module(part, module, self.layout, self.device)
        if part.takes_loras:
            self.loaded.append(
                LoadedPart(
                    part,
                    module,
                    config=self.folder / part.name,
                    source=published,
                    loras=loras,
                    weight_format=weight_format.without_loras(),
                    is_mapped=lambda name: is_mapped(part, name, self.layout, layers),
                )
            )
        return module

    def _dtype(self, part: Part) -> torch.dtype:
        is_vae = part.kind is PartKind.VAE
        return torch.float32 if is_vae and self.layout.fp32_decoding else self.dtype

    def _precision(self, part: Part, file: Path | None) -> Precision:
        """Return the precision of a part: a quantized file keeps its own, a denoiser has the layout's."""
        if not part.is_denoiser:
            return Precision.BF16
        if file is not None and SingleFile(file, part).is_quantized:
            return Precision.GGUF
        return Precision.BF16 if self.layout.precision is Precision.GGUF else self.layout.precision


def _is_converted_on_disk(
    precision: Precision, where: Residence, weight_format: WeightFormat, source: WeightSource
) -> bool:
    """Return whether a part is read from converted files that are written once."""
    if precision is Precision.GGUF:
        # its matrices are memory-mapped from the file itself, and the other tensors are small
        return False
    return precision is not Precision.BF16 or (where is Residence.DISK and weight_format.changes(source))
