"""Where a model's weights lie on this machine: a local folder, or the hub cache. Reads names only, no tensors."""

import hashlib
import json
from pathlib import Path

from pipelines.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.spec import ModelSpec

_INDEX_SUFFIX = ".safetensors.index.json"
_SMALL = 100_000


def locate(spec: ModelSpec) -> Path:
    """The folder that holds a model's weights, complete.

    `spec.repo` is taken as a local folder if there is one of that name, else looked up in the hub cache (its place
    follows HF_HOME and HF_HUB_CACHE). Nothing is downloaded. Raises WeightsNotFoundError with what is missing.
    """
    folder = Path(spec.repo).expanduser()
    if not folder.is_dir():
        folder = _hub_snapshot(spec)
    check(folder, spec.pipeline_class)
    return folder


def _hub_snapshot(spec: ModelSpec) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.repo, revision=spec.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise WeightsNotFoundError(
            f"No weights of {spec.repo} on this machine: it is neither a folder nor in the hub cache. "
            f"Fetch them with `hf download {spec.repo}`, or name a folder as `repo` in the model's file."
        ) from error


def check(folder: Path, pipeline_class: str) -> None:
    """Check that a diffusers folder is of the class expected and has every file that its indexes name.

    Raises UnsupportedModelError or WeightsNotFoundError, naming the first file that is wrong or missing.
    """
    index = folder / "model_index.json"
    try:
        components = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"{folder} is not a diffusers folder: it has no model_index.json.") from error
    except ValueError as error:
        raise WeightsNotFoundError(f"{index} is not readable as JSON: {error}") from error
    if components.get("_class_name") != pipeline_class:
        raise UnsupportedModelError(
            f"{folder} holds a {components.get('_class_name')}, but the model's file says {pipeline_class}."
        )
    for name, origin in components.items():
        if isinstance(origin, list) and origin[0] is not None and _is_model(folder / name):
            _check_component(folder / name)


def _is_model(component: Path) -> bool:
    # a tokenizer or a scheduler keeps its settings elsewhere; a folder that is gone counts as a model that lacks
    return (component / "config.json").exists() or not component.is_dir()


def _check_component(component: Path) -> None:
    for index in component.glob(f"*{_INDEX_SUFFIX}"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for missing in sorted(shard for shard in shards if not (component / shard).is_file()):
            raise WeightsNotFoundError(f"The weights are incomplete: {component / missing} is missing.")
    if not any(component.glob("*.safetensors")):
        raise WeightsNotFoundError(f"The weights are incomplete: no .safetensors file in {component}.")


def digest(folder: Path) -> str:
    """What tells these weights from others: every file's name, size and time, and what the small JSON ones say."""
    facts = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = path.stat()
        facts.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        if path.suffix == ".json" and status.st_size < _SMALL:
            facts.update(path.read_bytes())
    return facts.hexdigest()[:16]


def locate_file(repo: str, file: str, revision: str | None = None) -> Path:
    """A single file of a local folder, or of a repository in the hub cache; raises WeightsNotFoundError."""
    local = Path(repo).expanduser() / file
    if local.is_file():
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(repo, file, revision=revision)
    except HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise WeightsNotFoundError(
            f"No {file} of {repo} on this machine: it is neither in a folder nor in the hub cache."
        )
    return Path(cached)


def file_digest(path: Path) -> str:
    """What tells a weight file from others: its name, size and time."""
    status = path.stat()
    return hashlib.sha256(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]


def component_bytes(folder: Path, component: str) -> int:
    """Bytes of a component's weight files on disk."""
    return sum(path.stat().st_size for path in (folder / component).glob("*.safetensors"))
