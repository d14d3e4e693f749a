"""Finds a model's weights on this machine, in a folder or the hub cache, and checks that they are complete."""

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import ModelSpec, WeightFile
from pipelines.models.registry import family_of

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")
"""Name endings of a component's weights and of the index of its shards."""

LATENT_RGB = "vae/latent_rgb.json"
"""Where a folder may have a map from its latents to RGB. It is used for previews only, not for videos."""

_SMALL = 100_000
_HEADER_LENGTH_BYTES = 8


def locate(spec: ModelSpec) -> Path:
    """The folder with a model's weights; checks that they are complete, including those in single files.

    `spec.repo` is a local folder if there is one of that name, else it is looked up in the hub cache (HF_HOME and
    HF_HUB_CACHE set its path). Nothing is downloaded. Raises WeightsNotFoundError that names what is missing.
    """
    folder = _locate_folder(spec)
    locate_files(spec.files, spec.id)
    return folder


def locate_files(files: Iterable[WeightFile], model_id: str = "") -> dict[str, Path]:
    """The paths of single files with weights, by component. Raises WeightsNotFoundError."""
    try:
        return {file.part: locate_file(file.repo, file.file, file.revision) for file in files}
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(f"{error} Download it with `{_pull_command(model_id)}`.") from error


def _pull_command(model_id: str) -> str:
    return f"paddock pull --model {model_id}" if model_id else "paddock pull"


def _locate_folder(spec: ModelSpec) -> Path:
    folder = Path(spec.repo).expanduser()
    if folder.is_dir():
        check(folder, spec.pipeline_class, spec.replaced)
        return folder
    snapshot = cached(spec)
    if snapshot is None:
        raise WeightsNotFoundError(
            f"No weights of {spec.repo} on this machine: it is neither a folder nor in the hub cache. "
            f"Download them with `{_pull_command(spec.id)}`, or set `repo` in the model's file to a folder."
        )
    try:
        check(snapshot, spec.pipeline_class, spec.replaced)
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(f"{error} Download the rest with `{_pull_command(spec.id)}`.") from error
    return snapshot


def cached(spec: ModelSpec, cache: Path | None = None) -> Path | None:
    """The folder of a model's revision in a hub cache, complete or not; None if it is not there.

    `cache` is the cache's folder; None: the one that HF_HOME and HF_HUB_CACHE set.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        index = try_to_load_from_cache(spec.repo, "model_index.json", cache_dir=cache, revision=spec.revision)
    except HFValidationError:
        return None
    return Path(index).parent if isinstance(index, str) else None


def locate_in(source: Path, spec: ModelSpec) -> Path:
    """The folder with a model's complete weights: `source` in diffusers' layout, or in the hub cache `source`.

    Raises WeightsNotFoundError or UnsupportedModelError that names the first missing or truncated file.
    """
    snapshots = (cached(spec, cache) for cache in (source, source / "hub"))
    folder = next((snapshot for snapshot in snapshots if snapshot is not None), source)
    check(folder, spec.pipeline_class, spec.replaced)
    check_lengths(folder, spec.pipeline_class, spec.replaced)
    return folder


def check(folder: Path, pipeline_class: str, replaced: Collection[str] = ()) -> None:
    """Check that a diffusers folder has the expected pipeline class and every file that its indexes name.

    The components in `replaced`, whose weights come from elsewhere, need only a configuration. Raises
    UnsupportedModelError or WeightsNotFoundError that names the first file that is wrong or missing.
    """
    used = components(folder, pipeline_class)
    for part in replaced:
        if part not in used:
            raise UnsupportedModelError(f"{folder} has no {part}, but the model's file sets a weight file for it.")
    for part in used:
        if part in replaced:
            if not (folder / part / "config.json").is_file():
                raise WeightsNotFoundError(f"The weights are incomplete: {folder / part / 'config.json'} is missing.")
        elif _is_model(folder / part):
            _check_component(folder / part)


def components(folder: Path, pipeline_class: str) -> list[str]:
    """The components that a diffusers folder lists and a pipeline of the class uses; they need not be there.

    Raises UnsupportedModelError for another class, WeightsNotFoundError if the list cannot be read.
    """
    family = family_of(pipeline_class)
    index = folder / "model_index.json"
    try:
        named = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"{folder} is not a diffusers folder: it has no model_index.json.") from error
    except ValueError as error:
        raise WeightsNotFoundError(f"{index} is not valid JSON: {error}") from error
    if named.get("_class_name") not in family.folder_classes:
        raise UnsupportedModelError(
            f"{folder} is a {named.get('_class_name')}, but the model's file says {pipeline_class}."
        )
    return [
        name
        for name, origin in named.items()
        if name in family.components and isinstance(origin, list) and origin[0] is not None
    ]


def check_lengths(folder: Path, pipeline_class: str, replaced: Collection[str] = ()) -> None:
    """Check that every weight file of a diffusers folder is as long as its header says: a copy may be truncated.

    Files of the components in `replaced` are not used and not checked. Raises WeightsNotFoundError that names the first
    truncated file, and the errors of `components`.
    """
    for part in set(components(folder, pipeline_class)).difference(replaced):
        for path in sorted((folder / part).glob("*.safetensors")):
            if path.stat().st_size != _stated_length(path):
                raise WeightsNotFoundError(f"{path} is truncated or damaged: its length is not the one in its header.")


def _stated_length(path: Path) -> int | None:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        if header > path.stat().st_size:
            return None
        try:
            tensors = json.loads(file.read(header))
            ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
    return _HEADER_LENGTH_BYTES + header + max(ends, default=0)


def _is_model(component: Path) -> bool:
    # tokenizers and schedulers have no config.json; a missing folder counts as a model without weights
    return (component / "config.json").exists() or not component.is_dir()


def _check_component(component: Path) -> None:
    for index in component.glob(f"*{WEIGHT_SUFFIXES[1]}"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for missing in sorted(shard for shard in shards if not (component / shard).is_file()):
            raise WeightsNotFoundError(f"The weights are incomplete: {component / missing} is missing.")
    if not any(component.glob("*.safetensors")):
        raise WeightsNotFoundError(f"The weights are incomplete: no .safetensors file in {component}.")


def digest(folder: Path, replaced: Collection[str] = ()) -> str:
    """A fingerprint of weights: of every file's name, size and time, and of the content of small JSON files.

    It ignores LATENT_RGB and the weights of components in `replaced`.
    """
    facts = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.parent.name in replaced and path.name.endswith(WEIGHT_SUFFIXES):
            continue
        if path == folder / LATENT_RGB:
            continue
        status = path.stat()
        facts.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        if path.suffix == ".json" and status.st_size < _SMALL:
            facts.update(path.read_bytes())
    return facts.hexdigest()[:16]


def locate_file(repo: str, file: str, revision: str | None = None) -> Path:
    """The path of a file in a local folder or in a repository of the hub cache. Raises WeightsNotFoundError."""
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
    """A fingerprint of a weight file: of its name, size and time."""
    status = path.stat()
    return hashlib.sha256(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]


def source_bytes(source: Path) -> int:
    """Bytes of a component's weights on disk: of the files in a folder, or of a single file."""
    return sum(path.stat().st_size for path in ([source] if source.is_file() else source.glob("*.safetensors")))
