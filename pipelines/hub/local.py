"""Finds a model's weights on this machine, in a folder or the hub cache, and checks that they are complete."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipelines.core.errors import NoHomeError, WeightsNotFoundError
from pipelines.core.home import expanded
from pipelines.core.model import WeightFile, Weights
from pipelines.hub.folder import check
from pipelines.models.weight_files import check_no_pointer

LATENT_RGB = "vae/latent_rgb.json"
"""Where a folder may have a map from its latents to RGB. It is used for previews only, not for videos."""


def locate(spec: Weights) -> Path:
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


def _locate_folder(spec: Weights) -> Path:
    folder = _named(spec.repo)
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


def cached(spec: Weights, cache: Path | None = None) -> Path | None:
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


def locate_in(source: Path, spec: Weights) -> Path:
    """The folder with a model's complete weights: `source` in diffusers' layout, or in the hub cache `source`.

    Raises WeightsNotFoundError or UnsupportedModelError that names the first missing or truncated file.
    """
    snapshots = (cached(spec, cache) for cache in (source, source / "hub"))
    folder = next((snapshot for snapshot in snapshots if snapshot is not None), source)
    check(folder, spec.pipeline_class, spec.replaced)
    return folder


def locate_file(repo: str, file: str, revision: str | None = None) -> Path:
    """The path of a file in a local folder or in a repository of the hub cache. Raises WeightsNotFoundError."""
    local = _named(repo) / file
    if local.is_file():
        return _real(local)
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
    return _real(Path(cached))


def _named(repo: str) -> Path:
    try:
        return expanded(repo, "repo")
    except NoHomeError as error:
        raise WeightsNotFoundError(str(error)) from error


def _real(path: Path) -> Path:
    """Return a path. Raises WeightsNotFoundError if the file only says where Git LFS stores the content."""
    try:
        with path.open("rb") as file:
            check_no_pointer(path, file.read(100))
    except OSError as error:
        raise WeightsNotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    return path


def file_digest(path: Path, *, is_timed: bool = True) -> str:
    """A fingerprint of a weight file: of its name, size and time. Without the time, copies of it have the same."""
    status = path.stat()
    time = f" {status.st_mtime_ns}" if is_timed else ""
    return hashlib.sha256(f"{path.name} {status.st_size}{time}".encode()).hexdigest()[:16]
