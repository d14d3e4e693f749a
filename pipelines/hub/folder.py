"""Checks that a folder in diffusers' layout is complete and of a kind that can be read, without reading its weights.

Only what the pipeline uses is checked: the components that model_index.json lists, and of their weights the files that
`weight_files` returns.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.models.family import Part
from pipelines.models.model_index import NAME as MODEL_INDEX
from pipelines.models.registry import parts_family
from pipelines.models.safetensors_header import FLOATS, read_header
from pipelines.models.weight_files import MAX_VOCABULARY_BYTES, UNUSED, read_bytes, read_json, weight_files

SCALED_FP8 = frozenset({"fp8", "compressed-tensors", "modelopt", "scaled_fp8"})
"""Values of `quant_method` whose weights may be fp8 matrices with scales beside them, which can be read."""

MAX_LAYERS = 1024
"""Limit of each number of layers, heads and the like in a configuration, and of the length of a list."""

MAX_NUMBER = 2**20
"""Limit of all other whole numbers in a configuration: widths, sizes of vocabularies."""

_SETTINGS_SUFFIXES = (".json", ".model", ".txt")
_SMALL = 100_000


def check(folder: Path, pipeline_class: str, replaced: Collection[str] = ()) -> None:
    """Check the components that a folder lists, and every file that they need.

    The components in `replaced`, whose weights come from elsewhere, need only a configuration. Raises
    UnsupportedModelError or WeightsNotFoundError that names the first file that is wrong or missing.
    """
    family = parts_family(pipeline_class)
    index = family.read_index(folder)
    for name in replaced:
        if name not in index.components:
            raise UnsupportedModelError(f"{folder} has no {name}, but the model's file sets a weight file for it.")
    for part in family.used(index):
        config = read_config(folder / part.name)
        if part.name not in replaced:
            _check_weights(folder / part.name, part, config)
    for name in family.used_settings(index):
        _check_settings(folder / name)
    family.check_sizes(folder)


def read_config(component: Path) -> dict[str, Any]:
    """Return a component's configuration, with its numbers within limits. Raises PipelineError."""
    path = component / "config.json"
    config = read_json(path)
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        limit = MAX_LAYERS if name.startswith("num_") else MAX_NUMBER
        if len(values) > MAX_LAYERS:
            raise UnsupportedModelError(f"{path} has {len(values)} values for {name[:100]}; the limit is {MAX_LAYERS}.")
        for number in values:
            if type(number) is int and abs(number) > limit:
                raise UnsupportedModelError(f"{path} has {name[:100]} = {str(number)[:50]}; the limit is {limit}.")
    return config


def _check_weights(component: Path, part: Part, config: dict[str, Any]) -> None:
    quantization = config.get("quantization_config")
    method = _method(quantization)
    if quantization is not None and method not in SCALED_FP8:
        raise UnsupportedModelError(
            f"{component / 'config.json'} says that the weights are quantized by {method}, which is not supported. Use "
            "the folder with the original weights, a GGUF file, or fp8 weights with scales."
        )
    for path in weight_files(component, part.library):
        for name, tensor in read_header(path).items():
            if tensor.dtype not in FLOATS and name.rpartition(".")[2] not in UNUSED:
                by = f", quantized by {method}" if quantization is not None else ""
                raise UnsupportedModelError(
                    f"{path} has {name} as {tensor.dtype}{by}, which is not supported: weights must be floating-point "
                    "numbers."
                )


def _method(quantization: Any) -> str:
    if not isinstance(quantization, dict):
        return "an unknown method"
    method = quantization.get("quant_method") or quantization.get("quant_type")
    kind = next((bits for bits in ("load_in_4bit", "load_in_8bit") if quantization.get(bits)), None)
    if method is None and kind is None:
        return "an unknown method"
    return " ".join(str(word)[:50] for word in (method or "bitsandbytes", kind and f"({kind})") if word)


def _check_settings(component: Path) -> None:
    """Check a component without weights, such as a tokenizer: all its JSON, and the vocabulary."""
    for path in _settings(component):
        if path.name == "tokenizer.json":
            _check_vocabulary(path)
        elif path.suffix == ".json":
            read_json(path, MAX_VOCABULARY_BYTES)
        else:
            read_bytes(path, MAX_VOCABULARY_BYTES)
    if component.name.startswith("scheduler"):
        read_json(component / "scheduler_config.json")
    if component.name == "image_processor":
        read_json(component / "preprocessor_config.json")
    if component.name.startswith("tokenizer") and not (component / "tokenizer.json").exists():
        raise WeightsNotFoundError(f"The weights are incomplete: {component / 'tokenizer.json'} is missing.")


def _check_vocabulary(path: Path) -> None:
    # the only file that gives the ids of the model's authors: see `pipelines.stages.conditioning.tokenizer`
    model = read_json(path, MAX_VOCABULARY_BYTES).get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        raise WeightsNotFoundError(f"{path} has no vocabulary.")


def _settings(component: Path) -> list[Path]:
    try:
        return sorted(path for path in component.iterdir() if path.suffix in _SETTINGS_SUFFIXES)
    except OSError as error:
        raise WeightsNotFoundError(f"The weights are incomplete: {component} is missing.") from error


def digest(folder: Path, pipeline_class: str, replaced: Collection[str] = (), *, is_timed: bool = True) -> str:
    """Return a fingerprint of everything in a folder that the pipeline uses.

    These are the list of components, their configurations, and their weights and large files by name, size and time.
    Weights of components in `replaced` and files that are not read, such as README.md, are left out. Without times,
    copies of a folder have the same.
    """
    family = parts_family(pipeline_class)
    index = family.read_index(folder)
    facts = hashlib.sha256((folder / MODEL_INDEX).read_bytes())
    for part in family.used(index):
        component = folder / part.name
        facts.update(f"{part.name} ".encode())
        if part.name in replaced:
            facts.update(_config_facts(component))
        else:
            facts.update(part_digest(component, part.library, is_timed=is_timed).encode())
    for name in family.used_settings(index):
        for path in _settings(folder / name):
            is_small = path.stat().st_size < _SMALL
            facts.update(f"{name}/{path.name if is_small else _named_facts(path, is_timed)}\n".encode())
            if is_small:
                facts.update(path.read_bytes())
    return facts.hexdigest()[:16]


def part_digest(component: Path, library: str, *, is_timed: bool = True) -> str:
    """Return a fingerprint of a part: of its configuration, and of its weight files by name, size and time."""
    facts = hashlib.sha256(_config_facts(component))
    for path in weight_files(component, library):
        facts.update(_named_facts(path, is_timed).encode())
    return facts.hexdigest()[:16]


def _config_facts(component: Path) -> bytes:
    return read_bytes(component / "config.json", MAX_VOCABULARY_BYTES)


def _named_facts(path: Path, is_timed: bool) -> str:
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}\n" if is_timed else f"{path.name} {status.st_size}\n"
