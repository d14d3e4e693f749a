"""Checks that a folder with published weights is what this project assumes of it, without a GPU and within seconds.

python -m pipelines.tools.check_published FOLDER [--model ID]

It reads configurations, indexes, the tokenizer and the headers of the weight files, but no weights. Each line is one
check. The exit code is 1 if one failed, and 2 if the model is not known.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pipelines.core.errors import PipelineError
from pipelines.core.model import ModelSpec
from pipelines.hub.folder import check
from pipelines.loading.modules import WeightSource, skeleton
from pipelines.models.catalogue import BUILT_IN, read_catalogue
from pipelines.models.family import ModelFamily, Part, PartKind
from pipelines.models.model_index import ModelIndex
from pipelines.models.registry import family_of
from pipelines.models.safetensors_header import read_header
from pipelines.models.weight_files import read_json, weight_files
from pipelines.planning.shapes import ModelShape
from pipelines.stages.conditioning.tokenizer import read_tokenizer
from pipelines.stages.sampling.samplers import Samplers

TOKEN_IDS = Path(__file__).with_name("umt5_token_ids.json")
"""Texts with the ids that UMT5's published tokenizer gives them."""

SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "num_train_timesteps": 1000,
    "solver_order": 2,
    "use_dynamic_shifting": None,
}
"""What the published schedulers say. None stands for false or absent."""

TEXT_ENCODER = {
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
"""What the published text encoder says besides its sizes."""

IMAGE_ENCODER = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}
"""What the published image encoder says besides its sizes."""

WAN22_VAE = {"z_dim": 48, "in_channels": 12, "out_channels": 12}
"""Where the VAE of Wan2.2 5B differs from the class's defaults, besides its sizes."""

EXCERPT = 160
"""Limit of the characters of a value that are shown."""

STORED = ("F32", "BF16", "F16")
"""The dtypes of published weights."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its subject, and what was expected and found, in words."""

    about: str
    expected: str
    found: str

    @property
    def is_ok(self) -> bool:
        """Whether what was expected was found."""
        return self.expected == self.found

    def __str__(self) -> str:
        if self.is_ok:
            return f"OK    {self.about}: {_excerpt(self.found, 0)}"
        pairs = enumerate(zip(self.expected, self.found, strict=False))
        same = next((number for number, (one, other) in pairs if one != other), 0)
        return f"FAIL  {self.about}: expected {_excerpt(self.expected, same)}, found {_excerpt(self.found, same)}"


def check_published(folder: Path, spec: ModelSpec) -> Iterator[Finding]:
    """Compare a folder in diffusers' layout with what a model's file and this project say of it."""
    family = family_of(spec.pipeline_class)
    yield from _attempt("complete and readable", lambda: check(folder, spec.pipeline_class))
    try:
        index = family.read_index(folder)
    except PipelineError:
        # the line above has the reason
        return
    stated = spec.shape or {}
    yield from _index(index, family, stated)
    yield from _scheduler(folder, spec)
    for part in family.used(index):
        yield from _part(folder / part.name, part, stated.get(part.name, {}))
    yield from _sizes(folder, family, stated)
    if spec.latent_rgb is not None:
        yield from _latents(folder / family.vae.name, len(spec.latent_rgb.factors))
    yield from check_token_ids(folder)


def _attempt(about: str, action: Any) -> Iterator[Finding]:
    """Yield whether an action ends without an error of this project."""
    try:
        action()
    except PipelineError as error:
        yield Finding(about, "yes", f"no: {error}")
    else:
        yield Finding(about, "yes", "yes")


def _compare(path: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    for name, value in expected.items():
        there = found.get(name)
        yield Finding(f"{path} {name}", _words(value), _words(None if value is None and not there else there))


def _words(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _excerpt(text: str, same: int) -> str:
    """Return a text, or of a long one what begins shortly before its character number `same`."""
    if len(text) <= EXCERPT:
        return text
    start = max(0, min(same - EXCERPT // 4, len(text) - EXCERPT))
    return f"{'…' if start else ''}{text[start : start + EXCERPT]}{'…' if start + EXCERPT < len(text) else ''}"


def _index(index: ModelIndex, family: ModelFamily, stated: Mapping[str, Any]) -> Iterator[Finding]:
    about = index.path.name
    yield Finding(f"{about} _class_name", family.pipeline_class, index.pipeline_class)
    for part in family.parts:
        is_expected = not part.is_optional or part.name in stated
        found = index.components.get(part.name)
        yield Finding(
            f"{about} {part.name}",
            part.model_class if is_expected else "not used",
            "not used" if found is None else ":".join(found),
        )
    pipeline = stated.get("pipeline", {})
    names = ("boundary_ratio", "expand_timesteps")
    yield from _compare(about, {name: pipeline.get(name) or None for name in names}, index.settings)


def _scheduler(folder: Path, spec: ModelSpec) -> Iterator[Finding]:
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        config = read_json(path)
    except PipelineError:
        return
    yield from _compare("scheduler", SCHEDULER, config)
    shift = config.get("flow_shift")
    is_shift = isinstance(shift, int | float) and shift > 0
    yield Finding("scheduler flow_shift", "a positive number", "a positive number" if is_shift else _words(shift))
    shifts = set((spec.flow_shift or {}).values())
    yield from _attempt("noise levels", lambda: Samplers.read(folder, spec.sampler, spec.schedule, shifts))


def _part(component: Path, part: Part, stated: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare a part's configuration with the model's file and its class, and its weights with the configuration."""
    try:
        module = skeleton(resolve_name(part.model_class), component)
    except PipelineError as error:
        yield Finding(f"{part.name}/config.json", "a configuration", str(error))
        return
    found = module.config.to_dict() if part.library == "transformers" else dict(module.config)
    sizes = {name: value for name, value in stated.items() if name != "parameters"}
    yield from _compare(f"{part.name}/config.json", sizes, found)
    known = {PartKind.TEXT_ENCODER: TEXT_ENCODER, PartKind.IMAGE_ENCODER: IMAGE_ENCODER}
    others = known[part.kind] if part.kind in known else _defaults(part, found, sizes)
    yield from _compare(f"{part.name}/config.json", {n: v for n, v in others.items() if n not in sizes}, found)
    yield from _attempt(
        f"{part.name}: names and shapes of all tensors", lambda: WeightSource(component, part).check(module)
    )
    try:
        stored = [tensor for path in weight_files(component, part.library) for tensor in read_header(path).values()]
    except PipelineError:
        return
    dtypes = sorted({tensor.dtype for tensor in stored})
    yield Finding(
        f"{part.name}: dtypes",
        ", ".join(each for each in dtypes if each in STORED) or f"one of {', '.join(STORED)}",
        ", ".join(dtypes),
    )
    if "parameters" in stated:
        yield Finding(f"{part.name}: parameters", str(stated["parameters"]), str(sum(t.numel for t in stored)))


def _defaults(part: Part, found: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the other settings that the published configuration has: the defaults of the class, as far as known."""
    signature = inspect.signature(resolve_name(part.model_class).__init__).parameters
    known = {name: parameter.default for name, parameter in signature.items() if name in found}
    if part.kind is PartKind.VAE and sizes.get("is_residual"):
        known |= WAN22_VAE
        # 48 numbers each, which this project does not state
        for name in ("latents_mean", "latents_std"):
            known.pop(name, None)
    return known


def _sizes(folder: Path, family: ModelFamily, stated: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare what plans are made of with the files: the shape, and the parameters that it predicts."""
    try:
        shape = family.read_shape(folder)
        expected = family.shape(stated)
    except PipelineError as error:
        yield Finding("what plans are made of", "a shape", str(error))
        return
    yield Finding("what plans are made of", _words(str(expected)), _words(str(shape)))
    for part in family.used(family.read_index(folder)):
        if (predicted := _predicted(part, expected)) is not None:
            files = weight_files(folder / part.name, part.library)
            found = sum(tensor.numel for path in files for tensor in read_header(path).values())
            yield Finding(f"{part.name}: parameters", str(predicted), str(found))


def _predicted(part: Part, shape: ModelShape) -> int | None:
    """Return the number of parameters by which a plan measures a part; None for the VAE, whose files are counted."""
    if part.is_denoiser:
        return shape.transformer.num_layers * shape.transformer.block_parameters + shape.transformer.other_parameters
    if part.kind is PartKind.IMAGE_ENCODER:
        return None if shape.image_encoder is None else shape.image_encoder.parameters
    return shape.text_encoder.parameters if part.kind is PartKind.TEXT_ENCODER else None


def _latents(component: Path, channels: int) -> Iterator[Finding]:
    """Compare the VAE's latents with the map to RGB, and its statistics with its latents."""
    try:
        config = read_json(component / "config.json")
    except PipelineError:
        return
    yield Finding("vae/config.json z_dim, as the map for previews has it", str(channels), _words(config.get("z_dim")))
    for name in ("latents_mean", "latents_std"):
        values = config.get(name)
        numbers = values if isinstance(values, list) else []
        yield Finding(f"vae/config.json {name}, count", str(channels), str(len(numbers)))
    deviations = config.get("latents_std") or []
    are_positive = all(isinstance(each, int | float) and each > 0 for each in deviations)
    yield Finding("vae/config.json latents_std, all positive", "yes", "yes" if are_positive else "no")


def check_token_ids(folder: Path) -> list[Finding]:
    """Compare the ids that a folder's tokenizer gives to the texts in TOKEN_IDS with the published ones."""
    try:
        encoder = resolve_name("transformers:UMT5Config").from_dict(read_json(folder / "text_encoder" / "config.json"))
        tokenizer = read_tokenizer(folder / "tokenizer", encoder)
    except PipelineError as error:
        return [Finding("tokenizer", "readable", str(error))]
    findings = []
    for entry in json.loads(TOKEN_IDS.read_text(encoding="utf-8")):
        text = entry["text"] if len(entry["text"]) <= 40 else f"{entry['text'][:40]}…"
        ids = tokenizer(entry["text"], add_special_tokens=True).input_ids
        findings.append(Finding(f"token ids of {text!r}", _words(entry["ids"]), _words(ids)))
    return findings


def model_of(folder: Path, specs: Iterable[ModelSpec]) -> ModelSpec | None:
    """Return the model that a folder's path names, as the hub and its cache name it; None if it names none."""
    parts = folder.resolve().parts
    names = {spec.repo: (spec.repo.rpartition("/")[2], f"models--{spec.repo.replace('/', '--')}") for spec in specs}
    return next((spec for spec in specs if set(names[spec.repo]) & set(parts)), None)


def main(arguments: Sequence[str]) -> int:
    """Print a line for each check. Return the exit code."""
    parser = argparse.ArgumentParser(description="Check that published weights are what this project assumes of them.")
    parser.add_argument("folder", type=Path, help="a folder in diffusers' layout, such as Wan2.1-T2V-14B-Diffusers")
    parser.add_argument("--model", help="the model's id, if the folder's name does not say it")
    options = parser.parse_args(arguments)
    specs = {entry.id: entry.model for entry in read_catalogue((BUILT_IN,)).values()}
    named = options.model
    spec = model_of(options.folder, list(specs.values())) if named is None else specs.get(named)
    if spec is None:
        unknown = "" if named is None else f"There is no model {named[:200]!r}. "
        print(f"{unknown}Say which model it is: --model {' or '.join(specs)}", file=sys.stderr)
        return 2
    findings = []
    for finding in check_published(options.folder, spec):
        print(finding, flush=True)
        findings.append(finding)
    failed = sum(not finding.is_ok for finding in findings)
    print(f"{len(findings)} checks of {spec.id}, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
