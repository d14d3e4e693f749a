"""Turns errors of the hub, the network and the disk into sentences for the user."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.core.errors import DiskSpaceError, FetchError, HubAccessError, HubUnreachableError, PipelineError
from pipelines.hub.listing import Listing, readable

_KEPT = "Downloaded data is kept; the next attempt resumes from there."
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def explained(listing: Listing) -> Iterator[None]:
    """A context that converts errors of huggingface_hub and the system into FetchError with a sentence."""
    from huggingface_hub.errors import HTTPError

    _open_session()
    try:
        yield
    except PipelineError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        raise (_refusal(error, listing) or _unreachable(error, listing) or _disk(error, listing)) from error


def _open_session() -> None:
    from huggingface_hub.utils import get_session

    try:
        get_session()
    except Exception as error:
        # the environment is all that it depends on
        raise FetchError(
            "The proxy or the certificates that the environment names (HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE "
            f"and the like) cannot be used: {error}"
        ) from error


def is_transient(error: Exception) -> bool:
    """Whether a retry may help: after a lost connection, an overloaded hub or a response that was cut short."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    cut_short = type(error) is OSError and error.errno is None
    return cut_short or isinstance(error, HTTPError | LocalEntryNotFoundError)


def _refusal(error: Exception, listing: Listing) -> FetchError | None:
    """The error for a hub that answered with a refusal."""
    from huggingface_hub import errors

    repo, hub = listing.repo, listing.hub
    sentences = {
        errors.HFValidationError: f"{repo} is neither a folder on this machine nor a valid repository name.",
        errors.GatedRepoError: f"{repo} is gated on {hub}: accept its terms on its page there, and set HF_TOKEN to "
        "your token.",
        errors.RevisionNotFoundError: f"{repo} has no revision {listing.revision} on {hub}.",
        errors.RepositoryNotFoundError: f"There is no repository {repo} on {hub}, or it is private. If it is private, "
        "set HF_TOKEN to a token that may read it.",
    }
    for kind, sentence in sentences.items():
        if isinstance(error, kind):
            return HubAccessError(sentence)
    if not isinstance(error, errors.HfHubHTTPError):
        return None
    status = error.response.status_code
    if status in (401, 403):
        return HubAccessError(
            f"{hub} does not give {repo} to this user ({status}): set HF_TOKEN to a token that may read it."
        )
    return HubUnreachableError(f"The hub at {hub} answers {status} for {repo}.")


def _unreachable(error: Exception, listing: Listing) -> FetchError | None:
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    # the library reports "not in the cache" if it could not ask, and the reason as the cause
    reason = error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(reason, OfflineModeIsEnabled):
        return HubUnreachableError("HF_HUB_OFFLINE is set, so no hub can be asked.")
    if not isinstance(reason, HTTPError | LocalEntryNotFoundError):
        return None
    words = str(reason).rstrip(".") or type(reason).__name__
    return HubUnreachableError(f"The hub at {listing.hub} cannot be reached: {words}. {_KEPT}")


def _disk(error: Exception, listing: Listing) -> FetchError:
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        return DiskSpaceError(
            f"The disk is full: {readable(listing.missing)} of {listing.repo} are missing in {listing.cache}. {_KEPT}"
        )
    reason = os.strerror(number) if number else str(error)
    if number in _NOT_WRITABLE:
        return FetchError(
            f"The hub cache {listing.cache} cannot be written to: {reason}. Set HF_HOME to a writable folder."
        )
    return FetchError(f"{listing.repo} could not be downloaded into {listing.cache}: {reason}.")
