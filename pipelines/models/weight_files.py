"""The files of a folder in diffusers' layout: its JSON files, and which files have the weights of a part.

A folder is not trusted: every read has a limit, and every error names the file.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipelines.core.errors import WeightsNotFoundError

MAX_JSON_BYTES = 2**24
"""Limit of a configuration or an index; those of the published models have up to 200 KB."""

MAX_VOCABULARY_BYTES = 2**26
"""Limit of a tokenizer's file; UMT5's has 17 MB."""

MAX_SHARDS = 1000
"""Limit of the files that an index names."""

SCALES = ("scale_weight", "weight_scale")
"""Last parts of the names of tensors with the scales of an fp8 matrix, whose own name ends in "weight"."""

UNUSED = ("scale_input", "input_scale", "scaled_fp8", "comfy_quant")
"""Last parts of the names of tensors for arithmetic in fp8, which is not done, and of markers."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_INDEX_SUFFIX = ".safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.safetensors")


def weight_files(folder: Path, library: str) -> tuple[Path, ...]:
    """Return the files with the weights of a part, which a model class of `library` reads from `folder`.

    They are those that the library's `from_pretrained` reads: the files that the index names, or the one file with the
    standard name. Variants, other formats and files that the index does not name are left out. Raises
    WeightsNotFoundError if there are none, or one is missing.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise WeightsNotFoundError(f"The weights are incomplete: {folder} is missing.") from error
    chosen = index_or_file(names, library)
    if chosen is None:
        stem = _STEMS[library]
        others = sorted(name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".gguf")))
        found = f" It has {others[0]}, which is not used." if others else ""
        raise WeightsNotFoundError(
            f"The weights are incomplete: no .safetensors file in {folder} is named {stem}.safetensors, and there is "
            f"no index {stem}{_INDEX_SUFFIX}.{found}"
        )
    files = named_files(folder / chosen)
    for path in files:
        if not path.is_file():
            raise WeightsNotFoundError(f"The weights are incomplete: {path} is missing.")
    return files


def index_or_file(names: Collection[str], library: str) -> str | None:
    """Return which of the file names in a folder leads to the weights, an index or the file itself; None if none does.

    Where a folder has both, diffusers follows the index and transformers reads the file.
    """
    index, single = f"{_STEMS[library]}{_INDEX_SUFFIX}", f"{_STEMS[library]}.safetensors"
    preferred = (single, index) if library == "transformers" else (index, single)
    return next((name for name in preferred if name in names), None)


def named_files(path: Path) -> tuple[Path, ...]:
    """Return the weight files that an index names, in its folder; `path` itself if it is no index.

    They need not be there. Raises WeightsNotFoundError.
    """
    if not path.name.endswith(_INDEX_SUFFIX):
        return (path,)
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsNotFoundError(f"{path} names no files: it has no weight_map.")
    names = set()
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise WeightsNotFoundError(
                f"{path} names {str(name)[:100]!r}, which is not the name of a safetensors file in its folder."
            )
        names.add(name)
    if len(names) > MAX_SHARDS:
        raise WeightsNotFoundError(f"{path} names {len(names)} files; the limit is {MAX_SHARDS}.")
    return tuple(path.parent / name for name in sorted(names))


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file of at most `limit` bytes. Raises WeightsNotFoundError."""
    content = read_bytes(path, limit)
    try:
        parsed = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise WeightsNotFoundError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise WeightsNotFoundError(f"{path} is not valid: it holds no JSON object.")
    return parsed


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes, which must not be empty. Raises WeightsNotFoundError."""
    if path.exists() and not path.is_file():
        raise WeightsNotFoundError(f"{path} is not a file.")
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"The weights are incomplete: {path} is missing.") from error
    except OSError as error:
        raise WeightsNotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    check_no_pointer(path, content)
    if not content:
        raise WeightsNotFoundError(f"{path} is empty.")
    if len(content) > limit:
        raise WeightsNotFoundError(f"{path} is too large: the limit is {limit} bytes.")
    return content


def check_no_pointer(path: Path, start: bytes) -> None:
    """Raise WeightsNotFoundError if a file that begins with `start` only says where Git LFS stores the content."""
    if start.startswith(_LFS_POINTER):
        raise WeightsNotFoundError(
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository, or download it "
            "again."
        )
