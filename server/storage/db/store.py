"""The durable records: what is asked of them, and every change that the law allows. SQLAlchemy Core.

Every change of status is one guarded UPDATE: it matches the statuses the law allows it from and, once a generation
is claimed, the attempt that holds it. No row changed means that the attempt is no longer the one, and raises.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from pipelines.core.request import VideoParams
from server.core.generation import (
    TERMINAL,
    WORKER_DEATHS_ALLOWED,
    Generation,
    Origin,
    Outcome,
    Status,
    after_worker_death,
    sources,
)
from server.storage.db.connection import open_database, reading
from server.storage.db.errors import explain
from server.storage.db.schema import HAS_VIDEO, IS_QUEUED, attempts, generations, requests
from server.storage.db.statements import fair_queue as turns

log = logging.getLogger("paddock.store")

LIST_LIMIT = 1000
ONCE_SECONDS = 24 * 3600.0
_SUBMITTING = 0x5041_0002
_CLAIMING = 0x5041_0003

# JSON has no levels of the step cache, only their names
_PARAMS = TypeAdapter(VideoParams)

_THREADS = 4

# built once, as it is asked for most
_THE_ONE = select(generations).where(
    generations.c.id == bindparam("wanted"), generations.c.tenant == bindparam("whose")
)

P = ParamSpec("P")
R = TypeVar("R")
Clock = Callable[[], float]


class StaleAttemptError(Exception):
    """The attempt no longer holds the generation: it was cancelled, or claimed again."""


class QueueLimitError(Exception):
    """As many generations are queued as may be: of everybody's, or of one key's."""

    def __init__(self, limit: int, *, is_keys: bool) -> None:
        super().__init__(limit)
        self.limit = limit
        self.is_keys = is_keys


class OtherRequestError(Exception):
    """The key a client gave its request was another request's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many generations may be queued in all, and of one key; None: as many as in all."""

    in_all: int
    of_a_key: int | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """A request that is carried out once, however often it comes within ONCE_SECONDS: its key, and a digest of it."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which generations to list; None lets all pass. `statuses` empty lets none pass.

    `search` is words that must all be in the prompt, in any order and case.
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
            columns.model: self.model,
            columns.media_type: self.media_type,
            columns.target_repo: self.repo,
            columns.target_directory: self.folder,
        }
        parts = [columns.tenant == self.tenant, *(c == v for c, v in wanted.items() if v is not None)]
        if self.statuses is not None:
            parts.append(columns.status.in_(self.statuses))
        prompt = columns.parameters["prompt"].as_string()
        parts += [prompt.icontains(word, autoescape=True) for word in (self.search or "").split()]
        return and_(*parts)

    def of_one_status(self) -> "list[Filters]":
        """The same, a status each; itself where it names fewer than two."""
        if self.statuses is None or len(self.statuses) < 2:
            return [self]
        return [replace(self, statuses=frozenset({status})) for status in sorted(self.statuses)]


@dataclass(frozen=True, slots=True)
class Placed:
    """A generation and its place in the order the queue will be taken in: 1 is next, None unless queued."""

    generation: Generation
    queue_position: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of history and how many entries there are in all."""

    rows: list[Placed]
    total: int


def _in_thread(
    method: Callable[Concatenate["Store", P], R],
) -> Callable[Concatenate["Store", P], Coroutine[Any, Any, R]]:
    """Run a method on the store's own threads: a commit waits for the disk, and the event loop must not."""

    async def call(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> R:
        work = functools.partial(method, self, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    return functools.update_wrapper(call, method)


class Store:
    """Generations in a database; `url` is SQLAlchemy's (sqlite or postgresql). Opening it brings its schema up to
    date, and raises DatabaseUnusableError when that or reaching it fails.

    At most `max_overtakes` generations go before an older one that needs another model loaded, and as many before
    another key's turn; 0: none does.
    `server` is a name that no other server that lives has, and that begins the name of every owner of its claims.

    Every method raises RecordsUnavailableError while the database cannot be used.
    """

    def __init__(
        self, url: str, clock: Clock = time.time, *, max_overtakes: int = 0, server: str | None = None
    ) -> None:
        self.server = server
        self._clock = clock
        self._max_overtakes = max_overtakes
        self._engine = open_database(url)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._outage: str | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other servers may work on the same records; SQLite's are one server's."""
        return self._engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Let go of threads and connections."""
        self._threads.shutdown()
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._explained(), self._engine.begin() as tx:
            yield tx
        if self._outage is not None:
            log.info("the database can be written again")
            self._outage = None

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._explained(), reading(self._engine) as tx:
            yield tx

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell an outage of the database from a fault of ours; the log hears of it once, however many ask."""
        try:
            yield
        except DBAPIError as error:
            unavailable = explain(error)
            if unavailable is None:
                raise
            if self._outage != str(unavailable):
                self._outage = str(unavailable)
                log.warning("%s (%s) %s", unavailable, error.orig, unavailable.advice)
            raise unavailable from error

    # submission and cancellation

    @_in_thread
    def insert(self, new: Sequence[Generation], limits: Limits, once: Once | None = None) -> Sequence[Generation]:
        """Record a request's generations, all or none, and return them; those of before for a request that came before.

        Raises QueueLimitError when that would queue more than may be, and OtherRequestError.
        """
        with self._write() as tx:
            if self.is_shared:
                # one after the other, as in SQLite: else two could both be the last that the limit lets in, and a
                # generation could come into sight after a younger one has been claimed
                tx.execute(select(func.pg_advisory_xact_lock(_SUBMITTING)))
            tenant = new[0].tenant
            if once is not None and (before := self._made_before(tx, tenant, once)):
                return before
            more = sum(generation.status is Status.QUEUED for generation in new)
            if _queued(tx) + more > limits.in_all:
                raise QueueLimitError(limits.in_all, is_keys=False)
            if limits.of_a_key is not None and _queued(tx, tenant) + more > limits.of_a_key:
                raise QueueLimitError(limits.of_a_key, is_keys=True)
            tx.execute(insert(generations), [_to_row(generation) for generation in new])
            if once is not None:
                made = {"generations": [generation.id for generation in new], "made_at": self._clock()}
                tx.execute(insert(requests).values(tenant=tenant, **asdict(once), **made))
            return new

    def _made_before(self, tx: Connection, tenant: str, once: Once) -> list[Generation]:
        """What a request made when it came before; nothing if it did not, or if some of that is no more.

        That is what was removed since, and what was cancelled as its client hung up: it has come back.
        """
        tx.execute(delete(requests).where(requests.c.made_at < self._clock() - ONCE_SECONDS))
        same = and_(requests.c.tenant == tenant, requests.c.key == once.key)
        row = tx.execute(select(requests).where(same)).mappings().one_or_none()
        if row is None:
            return []
        if row["digest"] != once.digest:
            raise OtherRequestError(once.key)
        looked_up = [_find(tx, id_, tenant) for id_ in row["generations"]]
        found = [each for each in looked_up if each is not None and not _was_hung_up(each)]
        if len(found) == len(looked_up):
            return found
        tx.execute(delete(requests).where(same))
        return []

    @_in_thread
    def cancel(self, generation_id: str, tenant: str, *, unless_started: bool = False) -> Generation | None:
        """Cancel a generation, or only one never attempted; returns it as it was, None if nothing changed."""
        with self._write() as tx:
            # held until the commit: PostgreSQL would let it be claimed in between
            before = _find(tx, generation_id, tenant, for_update=True)
            if before is None or before.status not in sources(Status.CANCELLED):
                return None
            if unless_started and before.attempt > 0:
                return None
            tx.execute(
                update(generations)
                .where(generations.c.id == generation_id, generations.c.status == before.status)
                .values(status=Status.CANCELLED, completed_at=self._clock(), owner=None, lease_until=None)
            )
            self._end_attempt(tx, before.id, before.attempt, Outcome.CANCELLED)
            return before

    @_in_thread
    def cancel_waiting_sync(self) -> int:
        """Cancel queued generations whose client was on the line before this server started; returns how many."""
        with self._write() as tx:
            return tx.execute(
                update(generations)
                .where(generations.c.status == Status.QUEUED, generations.c.origin == Origin.SYNC)
                .where(generations.c.attempt == 0, *self._ours(generations.c.accepted_by == self.server))
                .values(status=Status.CANCELLED, completed_at=self._clock())
            ).rowcount

    # the dispatcher's part

    @_in_thread
    def claim(self, owner: str, lease: float, holding: str | None = None) -> Generation | None:
        """Take the next generation for a device that holds the model `holding`, for `lease` seconds.

        Which that is `server.core.fair_queue` says.
        """
        with self._write() as tx:
            if self.is_shared:
                # one after the other, as in SQLite: two that did not see each other would both take the same key's turn
                tx.execute(select(func.pg_advisory_xact_lock(_CLAIMING)))
            while (taken := turns.next_taken(tx, holding, self._max_overtakes)) is not None:
                claimed = self._take(tx, taken.generation.seq, owner, lease)
                if claimed is not None:
                    turns.note(tx, taken)
                    return claimed
            return None

    @_in_thread
    def next(self, holding: str | None) -> Generation | None:
        """What a claim would take now; None when nothing waits."""
        with self._read() as tx:
            taken = turns.next_taken(tx, holding, self._max_overtakes)
            if taken is None:
                return None
            row = tx.execute(select(generations).where(generations.c.seq == taken.generation.seq)).mappings().one()
            return _from_row(row)

    def _take(self, tx: Connection, seq: int, owner: str, lease: float) -> Generation | None:
        """Claim a queued generation; None when it has been cancelled just now."""
        now = self._clock()
        row = (
            tx.execute(
                update(generations)
                .where(generations.c.seq == seq, IS_QUEUED)
                .values(
                    status=Status.PROCESSING,
                    owner=owner,
                    attempt=generations.c.attempt + 1,
                    lease_until=now + lease,
                    started_at=now,
                )
                .returning(generations)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            return None
        claimed = _from_row(row)
        tx.execute(
            insert(attempts).values(generation_id=claimed.id, attempt=claimed.attempt, owner=owner, started_at=now)
        )
        return claimed

    @_in_thread
    def renew(self, held: Generation, lease: float, progress: float, fingerprint: dict[str, str] | None) -> None:
        """Hold a claim for `lease` seconds more, and note how far the generation is."""
        with self._write() as tx:
            self._change(
                tx,
                held,
                Status.PROCESSING,
                lease_until=self._clock() + lease,
                progress=progress,
                fingerprint=fingerprint,
            )

    @_in_thread
    def succeed(self, held: Generation, artifact: str, fingerprint: dict[str, str] | None = None) -> Generation:
        """Record a finished video, and what it depends on if that is news. The file must be on disk, whole, before."""
        news = {} if fingerprint is None else {"fingerprint": fingerprint}
        with self._write() as tx:
            return self._finish(tx, held, Status.SUCCEEDED, Outcome.SUCCEEDED, artifact=artifact, progress=1.0, **news)

    @_in_thread
    def fail(self, held: Generation, message: str) -> Generation:
        """Record that a generation failed, with the sentence for its user."""
        with self._write() as tx:
            return self._finish(tx, held, Status.FAILED, Outcome.FAILED, error_message=message)

    @_in_thread
    def worker_died(self, held: Generation, reached: float, why: str, saved: float = 0.0) -> Generation:
        """Put a generation back in its place in the queue after its worker died, or fail it by the rule.

        It had `reached` a progress, of which a checkpoint holds what was `saved`.
        """
        deaths, furthest = after_worker_death(held, reached)
        with self._write() as tx:
            if deaths >= WORKER_DEATHS_ALLOWED:
                return self._finish(
                    tx,
                    held,
                    Status.FAILED,
                    Outcome.WORKER_DIED,
                    worker_deaths=deaths,
                    furthest=furthest,
                    error_message=f"The worker process died {deaths} times in a row on this generation: {why}",
                )
            return self._requeue(tx, held, Outcome.WORKER_DIED, progress=saved, worker_deaths=deaths, furthest=furthest)

    @_in_thread
    def release(self, held: Generation, saved: float = 0.0) -> Generation:
        """Give a claim back: its owner stops cleanly. A checkpoint holds the progress that was `saved`."""
        with self._write() as tx:
            return self._requeue(tx, held, Outcome.RELEASED, progress=saved)

    @_in_thread
    def expire_leases(self) -> None:
        """End now the leases that this server held before it started."""
        with self._write() as tx:
            tx.execute(
                # zero, not now: a clock that is set back must not make them hold again
                update(generations)
                .where(generations.c.status == Status.PROCESSING)
                .where(*self._ours(generations.c.owner.startswith(self.server or "nobody/", autoescape=True)))
                .values(lease_until=0.0)
            )

    @_in_thread
    def abandoned(self) -> list[Generation]:
        """The generations whose lease has expired, in their order."""
        with self._read() as tx:
            rows = tx.execute(
                select(generations)
                .where(generations.c.status == Status.PROCESSING)
                .where(generations.c.lease_until <= self._clock())
                .order_by(generations.c.seq)
            ).mappings()
            return [_from_row(row) for row in rows]

    @_in_thread
    def requeue_abandoned(self, abandoned: Generation) -> Generation:
        """Put a generation whose lease has expired back in its place in the queue."""
        with self._write() as tx:
            return self._requeue(
                tx,
                abandoned,
                Outcome.ABANDONED,
                generations.c.lease_until <= self._clock(),
                server_deaths=abandoned.server_deaths + 1,
            )

    # reading

    @_in_thread
    def get(self, generation_id: str, tenant: str, holding: Sequence[str | None] = ()) -> Placed | None:
        """One generation of a tenant's, with its place given the model that each device holds."""
        with self._read() as tx:
            generation = _find(tx, generation_id, tenant)
            if generation is None:
                return None
            return self._place(tx, [generation], holding)[0]

    @_in_thread
    def newest(self, filters: Filters, holding: Sequence[str | None] = ()) -> list[Placed]:
        """The newest generations, newest first, at most LIST_LIMIT."""
        with self._read() as tx:
            # asked for several statuses at once, SQLite goes through the whole history for the few that wait
            found = [each for one in filters.of_one_status() for each in self._select(tx, one, LIST_LIMIT, 0)]
            newest = sorted(found, key=lambda generation: generation.seq, reverse=True)[:LIST_LIMIT]
            return self._place(tx, newest, holding)

    @_in_thread
    def page(self, filters: Filters, number: int, size: int, holding: Sequence[str | None] = ()) -> Page:
        """Page `number` (from 1) of `size` generations, newest first."""
        with self._read() as tx:
            total = self._count(tx, filters)
            found = self._select(tx, filters, size, (number - 1) * size, total)
            return Page(self._place(tx, found, holding), total)

    @_in_thread
    def completed_since(self, moment: float, tenant: str) -> list[Generation]:
        """A tenant's generations that succeeded or failed since a moment, oldest first, at most LIST_LIMIT."""
        with self._read() as tx:
            rows = tx.execute(
                select(generations)
                .where(generations.c.completed_at >= moment, generations.c.tenant == tenant)
                .where(generations.c.status.in_((Status.SUCCEEDED, Status.FAILED)))
                .order_by(generations.c.completed_at.desc())
                .limit(LIST_LIMIT)
            ).mappings()
            return [_from_row(row) for row in rows][::-1]

    @_in_thread
    def superseded(self, artifacts: Mapping[str, str]) -> list[str]:
        """Of artifacts by key, each with its generation's id, those whose generation ended without naming them."""
        ended = generations.c.status.in_(TERMINAL)
        with self._read() as tx:
            rows = tx.execute(
                select(generations.c.id, generations.c.artifact).where(_is_among(artifacts.values()), ended)
            )
            named = {row.id: row.artifact for row in rows}
        return [key for key, about in artifacts.items() if about in named and named[about] != key]

    @_in_thread
    def ended(self, ids: Sequence[str]) -> list[str]:
        """Of these generations those that are over, or that nobody knows."""
        with self._read() as tx:
            active = tx.scalars(
                select(generations.c.id).where(generations.c.id.in_(ids), generations.c.status.not_in(TERMINAL))
            ).all()
        return sorted(set(ids) - set(active))

    @_in_thread
    def unknown(self, artifacts: Mapping[str, str]) -> list[str]:
        """Of artifacts by key, each with its generation's id, those whose generation is not in the records."""
        with self._read() as tx:
            known = set(tx.scalars(select(generations.c.id).where(_is_among(artifacts.values()))))
        return [key for key, about in artifacts.items() if about not in known]

    @_in_thread
    def queued(self) -> int:
        """How many generations wait."""
        with self._read() as tx:
            return _queued(tx)

    @_in_thread
    def attempt_log(self) -> list[dict[str, Any]]:
        """Every attempt ever made, in order of its start."""
        with self._read() as tx:
            rows = tx.execute(select(attempts).order_by(attempts.c.started_at, attempts.c.attempt)).mappings()
            return [dict(row) for row in rows]

    def _ours(self, mark: ColumnElement[bool]) -> list[ColumnElement[bool]]:
        """What tells a server's own generations from those of others, where there may be others."""
        return [mark] if self.is_shared else []

    # what is kept

    @_in_thread
    def forget(self, before: float, limit: int) -> list[Generation]:
        """Remove the oldest generations that ended before a moment, at most `limit`; returns them as they were."""
        with self._write() as tx:
            # only what has ended has this time: the index alone finds it
            rows = tx.execute(
                select(generations)
                .where(generations.c.completed_at < before)
                .order_by(generations.c.completed_at)
                .limit(limit)
            ).mappings()
            forgotten = [_from_row(row) for row in rows]
            self._forget(tx, forgotten)
            return forgotten

    @_in_thread
    def remove(self, generation_id: str, tenant: str) -> Generation | None:
        """Remove a generation that is over; returns it as it was, None if there is none such."""
        with self._write() as tx:
            found = _find(tx, generation_id, tenant, for_update=True)
            if found is None or not found.is_terminal:
                return None
            self._forget(tx, [found])
            return found

    def _forget(self, tx: Connection, ended: Sequence[Generation]) -> None:
        ids = [generation.id for generation in ended]
        tx.execute(delete(attempts).where(attempts.c.generation_id.in_(ids)))
        tx.execute(delete(generations).where(_is_among(ids), generations.c.status.in_(TERMINAL)))

    @_in_thread
    def oldest_videos(self, before: float, limit: int) -> list[Generation]:
        """Generations with a video that ended before a moment, oldest first, at most `limit`."""
        with self._read() as tx:
            rows = tx.execute(
                select(generations)
                .where(HAS_VIDEO, generations.c.completed_at < before)
                .order_by(generations.c.completed_at)
                .limit(limit)
            ).mappings()
            return [_from_row(row) for row in rows]

    @_in_thread
    def withdraw(self, videos: Sequence[Generation], why: str) -> None:
        """Note that the videos of these generations are gone, and why. Remove the files after, not before."""
        ids = [generation.id for generation in videos]
        with self._write() as tx:
            tx.execute(
                update(generations)
                .where(_is_among(ids), generations.c.status.in_(TERMINAL))
                .values(artifact=None, error_message=why)
            )

    # the guarded updates behind them

    def _change(
        self,
        tx: Connection,
        held: Generation,
        target: Status,
        *conditions: ColumnElement[bool],
        **values: Any,
    ) -> Generation:
        """Update the row that `held` still holds; a change within `processing` keeps the status."""
        allowed = {Status.PROCESSING} if target is Status.PROCESSING else sources(target)
        row = (
            tx.execute(
                update(generations)
                .where(generations.c.id == held.id, generations.c.attempt == held.attempt)
                .where(generations.c.status.in_(allowed), generations.c.owner == held.owner, *conditions)
                .values(status=target, **values)
                .returning(generations)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            raise StaleAttemptError(f"attempt {held.attempt} no longer holds generation {held.id}")
        return _from_row(row)

    def _finish(self, tx: Connection, held: Generation, target: Status, outcome: Outcome, **values: Any) -> Generation:
        # first the generation, then its attempt, as everywhere: the other way round two could wait for each other
        blank = {"owner": None, "lease_until": None}
        finished = self._change(tx, held, target, completed_at=self._clock(), **blank, **values)
        self._end_attempt(tx, held.id, held.attempt, outcome)
        return finished

    def _requeue(
        self,
        tx: Connection,
        held: Generation,
        outcome: Outcome,
        *conditions: ColumnElement[bool],
        **values: Any,
    ) -> Generation:
        blank = {"owner": None, "lease_until": None, "started_at": None}
        requeued = self._change(tx, held, Status.QUEUED, *conditions, **blank, **values)
        self._end_attempt(tx, held.id, held.attempt, outcome)
        turns.give_back(tx, held.tenant)
        return requeued

    def _end_attempt(self, tx: Connection, generation_id: str, attempt: int, outcome: Outcome) -> None:
        tx.execute(
            update(attempts)
            .where(attempts.c.generation_id == generation_id, attempts.c.attempt == attempt)
            .where(attempts.c.outcome.is_(None))
            .values(ended_at=self._clock(), outcome=outcome)
        )

    def _place(self, tx: Connection, found: Sequence[Generation], holding: Sequence[str | None]) -> list[Placed]:
        """These generations, all of one key, with their places in the queue."""
        wanted = {generation.seq for generation in found if generation.status is Status.QUEUED}
        at = turns.places(tx, found[0].tenant, wanted, holding, self._max_overtakes) if wanted else {}
        return [Placed(generation, at.get(generation.seq)) for generation in found]

    def _count(self, tx: Connection, filters: Filters) -> int:
        every = select(func.count()).select_from(generations)
        if filters != Filters() or self.is_shared:
            return tx.scalar(every.where(filters.clause())) or 0
        # SQLite counts all rows by their pages, and others one by one: few are somebody's on a server without keys
        return (tx.scalar(every) or 0) - (tx.scalar(every.where(generations.c.tenant > "")) or 0)

    def _select(
        self, tx: Connection, filters: Filters, limit: int, offset: int, total: int | None = None
    ) -> list[Generation]:
        """So many generations after so many newer ones, newest first; of `total` in all, where that is known."""
        seq = generations.c.seq
        order, older = seq.desc(), None if total is None else total - offset - limit
        if older is not None and older < offset:
            # what is skipped is counted one by one: better from the nearer end
            order, limit, offset = seq.asc(), max(limit + min(older, 0), 0), max(older, 0)
        # an index alone tells which they are, so that the rows before them are skipped without being read
        wanted = select(seq).where(filters.clause()).order_by(order).limit(limit).offset(offset)
        rows = tx.execute(select(generations).where(seq.in_(wanted)).order_by(seq.desc())).mappings()
        return [_from_row(row) for row in rows]


def _is_among(ids: Iterable[str]) -> ColumnElement[bool]:
    return generations.c.id.in_(list(ids))


def _was_hung_up(generation: Generation) -> bool:
    return generation.origin is Origin.SYNC and generation.status is Status.CANCELLED


def _queued(tx: Connection, tenant: str | None = None) -> int:
    """How many generations wait, of one key or in all."""
    whose = [] if tenant is None else [generations.c.tenant == tenant]
    return tx.scalar(select(func.count()).where(IS_QUEUED, *whose)) or 0


def _find(tx: Connection, generation_id: str, tenant: str, *, for_update: bool = False) -> Generation | None:
    wanted = _THE_ONE.with_for_update() if for_update else _THE_ONE
    row = tx.execute(wanted, {"wanted": generation_id, "whose": tenant}).mappings().one_or_none()
    return _from_row(row) if row else None


def _to_row(generation: Generation) -> dict[str, Any]:
    row = asdict(generation)
    del row["seq"]
    return row


def _from_row(row: RowMapping) -> Generation:
    return Generation(
        **{
            **row,
            "status": Status(row["status"]),
            "origin": Origin(row["origin"]),
            "params": _PARAMS.validate_python(row["params"]) if row["params"] else None,
        }
    )
