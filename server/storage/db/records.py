"""The store's own types: filters, pages, limits and errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, func

from server.core.events import Live
from server.core.generation import Generation, Status
from server.storage.db.schema import generations
from server.storage.db.search import is_found


class StaleAttemptError(Exception):
    """The attempt no longer holds the generation: it was cancelled, or claimed again."""


class StatementTimeoutError(Exception):
    """A statement took longer than its limit, and was stopped."""


class SearchesBusyError(Exception):
    """A tenant has too many searches that wait for their turn."""


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
    One of spaces filters nothing, one of mere punctuation finds nothing.
    """

    tenant: str = ""
    statuses: frozenset[Status] | None = None
    namespace: str | None = None
    model: str | None = None
    media_type: str | None = None
    repo: str | None = None
    folder: str | None = None
    search: str | None = None

    def clause(self) -> ColumnElement[bool]:
        """The SQL condition."""
        columns = generations.c
        wanted = {
            columns.target_namespace: self.namespace,
            columns.media_type: self.media_type,
            columns.target_repo: self.repo,
            columns.target_directory: self.folder,
        }
        parts = [columns.tenant == self.tenant, *(c == v for c, v in wanted.items() if v is not None)]
        if self.model is not None:
            # as rows tell it
            parts.append(func.coalesce(columns.asked_model, columns.model) == self.model)
        if self.statuses is not None:
            parts.append(columns.status.in_(self.statuses))
        if self.search and not self.search.isspace():
            parts.append(is_found(self.search, self.tenant))
        return and_(*parts)

    def by_status(self) -> "list[Filters]":
        """One filter for each status; this one alone if it names fewer than two."""
        if self.statuses is None or len(self.statuses) < 2:
            return [self]
        return [replace(self, statuses=frozenset({status})) for status in sorted(self.statuses)]


@dataclass(frozen=True, slots=True)
class Placed:
    """A generation and its place in the order in which the queue will be taken (1 is next; None unless queued).

    `live` is the progress that another server has recorded of it, if it runs there.
    """

    generation: Generation
    queue_position: int | None
    live: Live | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The generations that an answer lists, newest first.

    Of each, `places` has the `seq` and its place in the queue at the moment of the list. `first` are the first ones as
    they were at that moment; `pending` are the others, still to be read. `total` is how many entries there are in all.
    `lives` has the progress that other servers have recorded of the first ones, by their ids.
    """

    tenant: str
    places: Mapping[int, int | None]
    first: Sequence[Generation]
    pending: Sequence[int]
    total: int
    lives: Mapping[str, Live]
