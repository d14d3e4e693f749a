"""Which files of a hub's repository a model needs. No tensors."""

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
    """Ask a hub which files a model needs; `hub` is its address, None for the one that HF_ENDPOINT names or the usual.

    Fetches nothing but the file that names the components. Raises FetchError or UnsupportedModelError.
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
    """Ask a hub for a model's single files, the LoRAs of `run_fast` among them; what is in local folders is left out.

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
        raise HubUnreachableError(f"What answers at {listing.hub} is not a hub.") from error
    files = [_hub_file(sibling) for sibling in info.siblings or ()]
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or "") or None in files:
        raise HubUnreachableError(
            f"The hub at {listing.hub} does not tell the files of {listing.repo} and their sizes."
        )
    return replace(listing, commit=info.sha), [file for file in files if file is not None]


def _hub_file(sibling: Any) -> HubFile | None:
    if sibling.size is None:
        return None
    # they become names of files, so they must be what they are said to be
    sha256 = _matching(r"[0-9a-f]{64}", sibling.lfs.sha256 if sibling.lfs else None)
    return HubFile(sibling.rfilename, sibling.size, sha256, _matching(r"[0-9a-f]{40}", sibling.blob_id))


def _matching(pattern: str, text: str | None) -> str | None:
    return text if text is not None and re.fullmatch(pattern, text) else None


def _is_needed(name: str, used: list[str], replaced: Collection[str]) -> bool:
    """Not pictures, other formats of the same weights, their variants (`model.fp16.safetensors`), unused components.

    Nor weights of the parts `replaced`.
    """
    folder, _, file = name.rpartition("/")
    if name == _INDEX:
        return True
    if folder in replaced and file.endswith(WEIGHT_SUFFIXES):
        return False
    stem, suffix = Path(file).stem, Path(file).suffix
    return folder in used and (suffix in _SETTINGS_SUFFIXES or (suffix == ".safetensors" and "." not in stem))
