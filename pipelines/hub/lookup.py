"""Asks a hub which files of its repositories a model needs."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.core.errors import HubAccessError, HubUnreachableError
from pipelines.core.home import expanded
from pipelines.core.model import Weights
from pipelines.hub.cache import hub_cache
from pipelines.hub.download import download_files
from pipelines.hub.errors import explained
from pipelines.hub.listing import HubFile, Listing
from pipelines.models.family import Part
from pipelines.models.model_index import NAME as MODEL_INDEX
from pipelines.models.registry import parts_family
from pipelines.models.weight_files import MAX_JSON_BYTES, index_or_file, named_files

_SETTINGS_SUFFIXES = (".json", ".model", ".txt")
_ANSWER_SECONDS = 30.0


def look_up(spec: Weights, hub: str | None = None) -> Listing:
    """The files that a model needs from its repository. `hub` is the hub's address; None: HF_ENDPOINT or the default.

    Downloads only the files that list the components and their weight files. Raises PipelineError.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=hub)
    revision = spec.revision or constants.DEFAULT_REVISION
    blank = Listing(spec.repo, revision, "", api.endpoint, hub_cache(), ())
    with explained(blank):
        found, files = _ask(api, blank)
        by_name = {file.name: file for file in files}
        if MODEL_INDEX not in by_name:
            raise HubAccessError(f"{spec.repo} is not in diffusers' layout: it has no {MODEL_INDEX}.")
        download_files(replace(found, files=(by_name[MODEL_INDEX],)))
        family = parts_family(spec.pipeline_class)
        index = family.read_index(found.folder)
        weights = _weights(found, by_name, [part for part in family.used(index) if part.name not in spec.replaced])
    settings = {name for name in by_name if _is_settings(name, index.components)}
    names = {MODEL_INDEX, *settings, *weights}
    return replace(found, files=tuple(file for file in files if file.name in names))


def _weights(found: Listing, by_name: Mapping[str, HubFile], parts: Sequence[Part]) -> set[str]:
    """Return the names of the files with the weights of parts. Downloads the indexes that name them."""
    names = set()
    for part in parts:
        here = {name.removeprefix(f"{part.name}/") for name in by_name if name.startswith(f"{part.name}/")}
        if (chosen := index_or_file(here, part.library)) is None:
            raise HubAccessError(f"{found.repo} has no safetensors weights of {part.name}.")
        names.add(f"{part.name}/{chosen}")
        if chosen.endswith(".json"):
            index = by_name[f"{part.name}/{chosen}"]
            if index.size > MAX_JSON_BYTES:
                raise HubAccessError(f"{index.name} of {found.repo} is too large: the limit is {MAX_JSON_BYTES} bytes.")
            download_files(replace(found, files=(index,)))
            names |= {f"{part.name}/{path.name}" for path in named_files(found.path(index))}
    if missing := names - by_name.keys():
        raise HubAccessError(f"{found.repo} has no {min(missing)}.")
    return names


def look_up_files(spec: Weights, hub: str | None = None) -> list[Listing]:
    """A model's single files on a hub, including the LoRAs of `run_fast` and of requests.

    Those in local folders are left out. Raises FetchError.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=hub)
    wanted: dict[tuple[str, str], set[str]] = {}
    for single in spec.every_file:
        if not (expanded(single.repo, "repo") / single.file).is_file():
            wanted.setdefault((single.repo, single.revision or constants.DEFAULT_REVISION), set()).add(single.file)
    listings = []
    for (repo, revision), names in wanted.items():
        blank = Listing(repo, revision, "", api.endpoint, hub_cache(), ())
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


def _is_settings(name: str, used: Collection[str]) -> bool:
    """Whether a file has settings of a component that is used: a configuration, a vocabulary, but no index."""
    folder, _, file = name.rpartition("/")
    return folder in used and file.endswith(_SETTINGS_SUFFIXES) and not file.endswith(".index.json")
