"""The store's own types: filters, pages, limits and errors."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, false, func, select

from server.core.events import Live
from server.core.generation import Generation, Status
from server.storage.db.schema import IS_FAVOURITE, generations, tags
from server.storage.db.search import is_found


class StaleAttemptError(Exception):
    """The attempt no longer holds the generation: it was cancelled, or claimed again."""


class StatementTimeoutError(Exception):
    """A statement took longer than its limit, and was stopped."""


class SearchesBusyError(Exception):
    """A tenant has too many searches that wait for their turn."""


class UnknownGenerationsError(Exception):
    """A tenant has no generations with these `ids`."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(*ids)
        self.ids = ids


class MarkLimitError(Exception):
    """There would be more tags or favourites than a limit allows; `str()` is a sentence that says so."""


class QueueLimitError(Exception):
    """The queue is full: `limit` generations wait, of all tenants, or of one (`is_per_tenant`)."""

    def __init__(self, limit: int, *, is_per_tenant: bool) -> None:
        super().__init__(limit)
        self.limit = limit
        self.is_per_tenant = is_per_tenant


class IdempotencyKeyReusedError(Exception):
    """The idempotency key of a request belongs to another request of the same tenant."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many generations may wait in all, and of one tenant.

    Without the latter, a tenant with a key may have half of the places that others leave: there is one for every other.
    """

    total: int
    per_tenant: int | None = None

    def of(self, tenant: str, others: int) -> int:
        """How many of a tenant may wait while so many of others do."""
        if self.per_tenant is not None:
            return self.per_tenant
        free = self.total - others
        return (free + 1) // 2 if tenant else free


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request that is carried out once, however often it is sent: its idempotency key and a digest of the rest."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which generations to list. None filters nothing; empty `statuses` select nothing.

    `search` is beginnings of words that must all be in the prompt, in any order and case (`server.storage.db.words`).
    One of spaces filters nothing, one of mere punctuation finds nothing. `since` and `until` are the first and the last
    moment of submission, in Unix seconds; `size` is as that of `Generation`.
    """

    tenant: str = ""
    statuses: frozenset[Status] | None = None
    namespace: str | None = None
    model: str | None = None
    media_type: str | None = None
    repo: str | None = None
    folder: str | None = None
    search: str | None = None
    since: float | None = None
    until: float | None = None
    size: str | None = None
    favourite: bool | None = None
    tag: str | None = None

    def clause(self) -> ColumnElement[bool]:
        """The SQL condition."""
        columns = generations.c
        wanted = {
            columns.target_namespace: self.namespace,
            columns.media_type: self.media_type,
            columns.target_repo: self.repo,
            columns.target_directory: self.folder,
            columns.size: self.size,
        }
        parts = [columns.tenant == self.tenant, *(c == v for c, v in wanted.items() if v is not None)]
        if self.since is not None:
            parts.append(columns.enqueued_at >= self.since)
        if self.until is not None:
            parts.append(columns.enqueued_at <= self.until)
        if self.favourite is not None:
            # written out, not bound: an index of the favourites alone is used where they are seen to be asked for
            parts.append(IS_FAVOURITE if self.favourite else columns.favourite == false())
        if self.tag is not None:
            parts.append(
                columns.seq.in_(select(tags.c.seq).where(tags.c.tenant == self.tenant, tags.c.tag == self.tag))
            )
        if self.model is not None:
            # as rows tell it
            parts.append(func.coalesce(columns.asked_model, columns.model) == self.model)
        if self.statuses is not None:
            parts.append(columns.status.in_(self.statuses))
        if self.search and not self.search.isspace():
            parts.append(is_found(self.search, self.tenant, has_others=len(parts) > 1))
        return and_(*parts)

    def by_status(self) -> "list[Filters]":
        """One filter for each status; this one alone if it names fewer than two."""
        if self.statuses is None or len(self.statuses) < 2:
            return [self]
        return [replace(self, statuses=frozenset({status})) for status in sorted(self.statuses)]


@dataclass(frozen=True, slots=True)
class Placed:
    """A generation and its place in the order in which the queue will be taken (1 is next; None unless queued).

    `live` is the progress that another server has recorded of it, if it runs there. `tags` are sorted.
    """

    generation: Generation
    queue_position: int | None
    live: Live | None = None
    tags: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """How generations are to be marked. None of `favourite` leaves it, None of `tags` leaves those that there are.

    Of the tags, all but `tags` are removed first, then `remove`; `add` are added last.
    """

    favourite: bool | None = None
    tags: Collection[str] | None = None
    remove: Collection[str] = ()
    add: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Counted:
    """A value of generations, and how many of a tenant's have it."""

    value: str
    count: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """What an archive needs to know of a generation; `prompt` is its beginning."""

    seq: int
    id: str
    status: Status
    artifact: str | None
    completed_at: float | None
    prompt: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The generations that an answer lists, newest first.

    Of each, `places` has the `seq` and its place in the queue at the moment of the list. `first` are the first ones as
    they were at that moment; `pending` are the others, still to be read. `total` is how many entries there are in all,
    None if they were not counted. `next` is the `seq` before which a list goes on with older ones, None at its end.
    """

    tenant: str
    places: Mapping[int, int | None]
    first: Sequence[Placed]
    pending: Sequence[int]
    total: int | None
    next: int | None = None
