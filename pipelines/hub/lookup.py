"""Asks a hub which files of its repositories a model needs."""

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.core.errors import HubAccessError, HubUnreachableError
from pipelines.core.model import ModelSpec
from pipelines.hub.download import download_files
from pipelines.hub.errors import explained
from pipelines.hub.listing import HubFile, Listing
from pipelines.hub.local import WEIGHT_SUFFIXES, components

_INDEX = "model_index.json"


_SETTINGS_SUFFIXES = (".json", ".model", ".txt")


_ANSWER_SECONDS = 30.0


def look_up(spec: ModelSpec, hub: str | None = None) -> Listing:
    """The files that a model needs from its repository. `hub` is the hub's address; None: HF_ENDPOINT or the default.

    Downloads only the file that lists the components. Raises FetchError or UnsupportedModelError.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=hub)
    revision = spec.revision or constants.DEFAULT_REVISION
    blank = Listing(spec.repo, revision, "", api.endpoint, Path(constants.HF_HUB_CACHE).expanduser(), ())
    with explained(blank):
        found, files = _ask(api, blank)
        index = replace(found, files=tuple(file for file in files if file.name == _INDEX))
        if not index.files:
            raise HubAccessError(f"{spec.repo} is not in diffusers' layout: it has no {_INDEX}.")
        download_files(index)
        used = components(index.folder, spec.pipeline_class)
    return replace(found, files=tuple(file for file in files if _is_needed(file.name, used, spec.replaced)))


def look_up_files(spec: ModelSpec, hub: str | None = None) -> list[Listing]:
    """A model's single files on a hub, including the LoRAs of `run_fast`; those in local folders are left out.

    Raises FetchError.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=hub)
    wanted: dict[tuple[str, str], set[str]] = {}
    for single in spec.every_file:
        if not (Path(single.repo).expanduser() / single.file).is_file():
            wanted.setdefault((single.repo, single.revision or constants.DEFAULT_REVISION), set()).add(single.file)
    listings = []
    for (repo, revision), names in wanted.items():
        blank = Listing(repo, revision, "", api.endpoint, Path(constants.HF_HUB_CACHE).expanduser(), ())
        with explained(blank):
            found, files = _ask(api, blank)
        listing = replace(found, files=tuple(file for file in files if file.name in names))
        if missing := names - {file.name for file in listing.files}:
            raise HubAccessError(f"{repo} has no {min(missing)}.")
        listings.append(listing)
    return listings


def _ask(api: Any, listing: Listing) -> tuple[Listing, list[HubFile]]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = api.model_info(listing.repo, revision=listing.revision, files_metadata=True, timeout=_ANSWER_SECONDS)
    except (HFValidationError, HfHubHTTPError):
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise HubUnreachableError(f"The server at {listing.hub} is not a hub.") from error
    files = [_hub_file(sibling) for sibling in info.siblings or ()]
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or "") or None in files:
        raise HubUnreachableError(
            f"The hub at {listing.hub} does not list the files of {listing.repo} with their sizes."
        )
    return replace(listing, commit=info.sha), [file for file in files if file is not None]


def _hub_file(sibling: Any) -> HubFile | None:
    if sibling.size is None:
        return None
    # they become file names, so nothing but a checksum is accepted
    sha256 = _matching(r"[0-9a-f]{64}", sibling.lfs.sha256 if sibling.lfs else None)
    return HubFile(sibling.rfilename, sibling.size, sha256, _matching(r"[0-9a-f]{40}", sibling.blob_id))


def _matching(pattern: str, text: str | None) -> str | None:
    return text if text is not None and re.fullmatch(pattern, text) else None


def _is_needed(name: str, used: list[str], replaced: Collection[str]) -> bool:
    """Whether a model needs a file of its repository.

    It does not need pictures, other formats or variants of the same weights (`model.fp16.safetensors`), components that
    are not `used`, and the weights of components in `replaced`.
    """
    folder, _, file = name.rpartition("/")
    if name == _INDEX:
        return True
    if folder in replaced and file.endswith(WEIGHT_SUFFIXES):
        return False
    stem, suffix = Path(file).stem, Path(file).suffix
    return folder in used and (suffix in _SETTINGS_SUFFIXES or (suffix == ".safetensors" and "." not in stem))
