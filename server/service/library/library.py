"""The use cases of the history as a library."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from server.core.errors import (
    ConflictError,
    GenerationNotFoundError,
    InvalidParamsError,
    PaddockError,
    QueueFullError,
    UnavailableError,
)
from server.core.generation import Status
from server.scheduler.interface import Scheduler
from server.service.library.archives import Archives
from server.service.library.unknown import unknown_generations
from server.storage.db.records import (
    Counted,
    Filters,
    Listing,
    Marking,
    MarkLimitError,
    SearchesBusyError,
    StatementTimeoutError,
    UnknownGenerationsError,
)
from server.storage.db.statements.history import History
from server.storage.db.statements.library import LibraryRecords
from server.storage.files.signing import LinkSigner, TenantSigner
from server.storage.files.videos import Videos
from server.storage.retention import Retention

_LAST = 2**31 - 1
"""No generation's `seq` is larger."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """The ids of generations that were deleted, and of each that was not the error that says why."""

    deleted: list[str]
    refused: dict[str, PaddockError]


class Library:
    """Pages of a tenant's history, its marks and filters, and what is done with many generations at once.

    `keys` sign cursors, and links to archives, which last `link_seconds`.
    """

    def __init__(
        self,
        records: LibraryRecords,
        history: History,
        scheduler: Scheduler,
        retention: Retention,
        videos: Videos,
        keys: Sequence[str],
        link_seconds: float,
    ) -> None:
        self._records = records
        self._history = history
        self._scheduler = scheduler
        self._retention = retention
        # a place in a list stays one
        self._cursors = TenantSigner(keys, math.inf, salt="cursor")
        signer = LinkSigner(keys, link_seconds, salt="archive", renewal="ask for the archive again")
        self.archives = Archives(records, videos, signer)

    async def page(self, filters: Filters, number: int, size: int) -> Listing:
        """List a page of history. Raises UnavailableError or QueueFullError for a search."""
        try:
            return await self._history.page(filters, number, size, self._scheduler.next_weights)
        except (StatementTimeoutError, SearchesBusyError) as error:
            raise _refused(error) from None

    async def after(self, filters: Filters, cursor: str, size: int) -> Listing:
        """List what comes after a cursor. Raises InvalidParamsError, and as `page` does."""
        seq = self._cursors.verify(filters.tenant, cursor)
        if not isinstance(seq, int):
            raise InvalidParamsError("cursor must be the next_cursor of an answer to this key. Begin again without it.")
        try:
            return await self._history.before(filters, seq, size, self._scheduler.next_weights)
        except (StatementTimeoutError, SearchesBusyError) as error:
            raise _refused(error) from None

    async def beyond(self, filters: Filters, generation_id: str | None, size: int, *, oldest_first: bool) -> Listing:
        """List what comes after a generation in the order of submission, or from the start; newest first in any case.

        Raises GenerationNotFoundError, and as `page` does.
        """
        seq = 0 if oldest_first else _LAST
        if generation_id is not None:
            placed = await self._history.get(generation_id, filters.tenant)
            if placed is None:
                raise GenerationNotFoundError
            seq = placed.generation.seq
        read = self._history.after if oldest_first else self._history.before
        try:
            return await read(filters, seq, size, self._scheduler.next_weights)
        except (StatementTimeoutError, SearchesBusyError) as error:
            raise _refused(error) from None

    def next_cursor(self, listing: Listing) -> str | None:
        """The cursor with which a list goes on, None at its end."""
        return None if listing.next is None else self._cursors.sign(listing.tenant, listing.next)

    async def mark(self, tenant: str, ids: Collection[str], marking: Marking) -> int:
        """Mark some generations, all or none; returns how many. Raises ResourceNotFoundError or ConflictError."""
        try:
            return await self._records.mark(tenant, ids, marking)
        except UnknownGenerationsError as error:
            raise (GenerationNotFoundError() if len(ids) == 1 else unknown_generations(error.ids)) from None
        except MarkLimitError as error:
            raise ConflictError(str(error)) from None

    async def tags(self, tenant: str) -> list[Counted]:
        """The tags of a tenant's generations, the most frequent first."""
        return await self._records.tags(tenant)

    async def facets(self, tenant: str) -> tuple[list[Counted], list[Counted], int]:
        """The models that a tenant's generations name and their sizes, the most frequent first, and the favourites."""
        return await self._records.facets(tenant)

    async def delete(self, tenant: str, ids: Collection[str]) -> Deletion:
        """Remove the rows and the videos of those generations that have ended. Raises UnavailableError."""
        removed, others = await self._retention.remove(ids, tenant)
        gone = {*removed}
        return Deletion(removed, {id_: _why_not(id_, others.get(id_)) for id_ in ids if id_ not in gone})


def _why_not(generation_id: str, status: Status | None) -> PaddockError:
    """Why a generation was not removed; it has no status if there is none."""
    if status is None:
        return GenerationNotFoundError()
    return ConflictError(f"Generation {generation_id} is {status}: cancel it before you remove it.")


def _refused(error: StatementTimeoutError | SearchesBusyError) -> PaddockError:
    if isinstance(error, SearchesBusyError):
        return QueueFullError("Other searches with this key are still running.", 1)
    return UnavailableError(
        "The search took too long. Search for longer or rarer words, or narrow it with a filter such as model."
    )
