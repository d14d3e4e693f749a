"""Where a model's weights lie on this machine: a local folder, or the hub cache. Reads names only, no tensors."""

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import ModelSpec, WeightFile

PARTS = frozenset({"scheduler", "text_encoder", "tokenizer", "transformer", "transformer_2", "vae"})
"""The components of a repository that a pipeline may use; it may hold others, such as an image encoder."""

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")
"""How the names of a part's weights end, and of the list of them."""

LATENT_RGB = "vae/latent_rgb.json"
"""Where a folder may keep a map from its latents to RGB, which makes previews and no video."""

_SMALL = 100_000
_HEADER_LENGTH_BYTES = 8


def locate(spec: ModelSpec) -> Path:
    """The folder that holds a model's weights, complete but for those that single files hold; they are here, too.

    `spec.repo` is taken as a local folder if there is one of that name, else looked up in the hub cache (its place
    follows HF_HOME and HF_HUB_CACHE). Nothing is downloaded. Raises WeightsNotFoundError with what is missing.
    """
    folder = _locate_folder(spec)
    locate_files(spec.files, spec.id)
    return folder


def locate_files(files: Iterable[WeightFile], model_id: str = "") -> dict[str, Path]:
    """Where the single files with a model's weights are, by their parts; raises WeightsNotFoundError."""
    try:
        return {file.part: locate_file(file.repo, file.file, file.revision) for file in files}
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(f"{error} Fetch it with `{_fetching(model_id)}`.") from error


def _fetching(model_id: str) -> str:
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
            f"Fetch them with `{_fetching(spec.id)}`, or name a folder as `repo` in the model's file."
        )
    try:
        check(snapshot, spec.pipeline_class, spec.replaced)
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(f"{error} `{_fetching(spec.id)}` fetches what is missing.") from error
    return snapshot


def cached(spec: ModelSpec, cache: Path | None = None) -> Path | None:
    """The folder of a model's revision in a hub cache, complete or not; None if it is not there.

    `cache` is the folder of the repositories, None for the one that HF_HOME and HF_HUB_CACHE name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        index = try_to_load_from_cache(spec.repo, "model_index.json", cache_dir=cache, revision=spec.revision)
    except HFValidationError:
        return None
    return Path(index).parent if isinstance(index, str) else None


def locate_in(source: Path, spec: ModelSpec) -> Path:
    """A model's weights, complete, in a folder of diffusers' layout or in a hub cache that is not the usual one.

    Raises WeightsNotFoundError or UnsupportedModelError, naming the first file that is missing or cut off.
    """
    snapshots = (cached(spec, cache) for cache in (source, source / "hub"))
    folder = next((snapshot for snapshot in snapshots if snapshot is not None), source)
    check(folder, spec.pipeline_class, spec.replaced)
    check_lengths(folder, spec.pipeline_class, spec.replaced)
    return folder


def check(folder: Path, pipeline_class: str, replaced: Collection[str] = ()) -> None:
    """Check that a diffusers folder is of the class expected and has every file that its indexes name.

    Of the parts `replaced`, whose weights come from elsewhere, it must have the configuration. Raises
    UnsupportedModelError or WeightsNotFoundError, naming the first file that is wrong or missing.
    """
    used = components(folder, pipeline_class)
    for part in replaced:
        if part not in used:
            raise UnsupportedModelError(f"{folder} has no {part}, which a file is named for.")
    for part in used:
        if part in replaced:
            if not (folder / part / "config.json").is_file():
                raise WeightsNotFoundError(f"The weights are incomplete: {folder / part / 'config.json'} is missing.")
        elif _is_model(folder / part):
            _check_component(folder / part)


def components(folder: Path, pipeline_class: str) -> list[str]:
    """The components that a diffusers folder names and a pipeline of the class uses, here or not.

    Raises UnsupportedModelError if the folder is of another class, WeightsNotFoundError if it names none.
    """
    index = folder / "model_index.json"
    try:
        named = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"{folder} is not a diffusers folder: it has no model_index.json.") from error
    except ValueError as error:
        raise WeightsNotFoundError(f"{index} is not readable as JSON: {error}") from error
    if named.get("_class_name") != pipeline_class:
        raise UnsupportedModelError(
            f"{folder} holds a {named.get('_class_name')}, but the model's file says {pipeline_class}."
        )
    return [
        name for name, origin in named.items() if name in PARTS and isinstance(origin, list) and origin[0] is not None
    ]


def check_lengths(folder: Path, pipeline_class: str, replaced: Collection[str] = ()) -> None:
    """Check that every weight file of a diffusers folder is as long as its header says: a copy may have been cut off.

    Those of the parts `replaced` are not used. Raises WeightsNotFoundError, naming the first that is not, and what
    `components` raises.
    """
    for part in set(components(folder, pipeline_class)).difference(replaced):
        for path in sorted((folder / part).glob("*.safetensors")):
            if path.stat().st_size != _stated_length(path):
                raise WeightsNotFoundError(f"{path} is cut off or damaged: its length is not the one it states.")


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
    # a tokenizer or a scheduler keeps its settings elsewhere; a folder that is gone counts as a model that lacks
    return (component / "config.json").exists() or not component.is_dir()


def _check_component(component: Path) -> None:
    for index in component.glob(f"*{WEIGHT_SUFFIXES[1]}"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for missing in sorted(shard for shard in shards if not (component / shard).is_file()):
            raise WeightsNotFoundError(f"The weights are incomplete: {component / missing} is missing.")
    if not any(component.glob("*.safetensors")):
        raise WeightsNotFoundError(f"The weights are incomplete: no .safetensors file in {component}.")


def digest(folder: Path, replaced: Collection[str] = ()) -> str:
    """What tells these weights from others: every file's name, size and time, and what the small JSON ones say.

    The weights of the parts `replaced` do not count: whether they are there makes no difference. Nor does LATENT_RGB.
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


def source_bytes(source: Path) -> int:
    """Bytes of a component's weights on disk: of the files in its folder, or of the one that holds them."""
    return sum(path.stat().st_size for path in ([source] if source.is_file() else source.glob("*.safetensors")))
