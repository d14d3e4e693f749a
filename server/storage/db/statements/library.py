"""Statements about a tenant's history as a library: favourites and tags, what there is to filter by, and selections."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, distinct, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from server.core.generation import Status
from server.storage.db.records import Chosen, Counted, Marking, MarkLimitError, UnknownGenerationsError
from server.storage.db.schema import IS_FAVOURITE, generations, tags
from server.storage.db.session import Pool, Repository, in_thread, in_thread_of
from server.storage.db.statements.rows import is_among

MAX_TAGS = 20
"""So many tags a generation may have."""

MAX_TAGS_OF_TENANT = 200
"""So many different tags a tenant may have: a menu holds no more."""

MAX_FAVOURITES = 1_000
"""So many favourites a tenant may have: they do not go by their age."""

MAX_COUNTED = 200
"""So many models and sizes are counted, the most frequent ones."""

_MARKING = 0x5041_0006
_PROMPT_CHARS = 200

_INSERT: Mapping[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_TAGS = select(tags.c.seq, tags.c.tag).where(tags.c.seq.in_(bindparam("wanted", expanding=True)))


def tags_of(tx: Connection, numbers: Sequence[int]) -> dict[int, list[str]]:
    """The sorted tags of the generations with these numbers (`seq`), of those that have any."""
    found: dict[int, list[str]] = defaultdict(list)
    if numbers:
        for seq, tag in tx.execute(_TAGS, {"wanted": numbers}):
            found[seq].append(tag)
    # not by the database: the order of letters is its own matter
    return {seq: sorted(named) for seq, named in found.items()}


class LibraryRecords(Repository):
    """Marks a tenant's generations, and finds what it has."""

    async def mark(self, tenant: str, ids: Collection[str], marking: Marking) -> int:
        """Mark some generations, all or none, and return how many they are.

        Raises UnknownGenerationsError, and MarkLimitError if there would be too many tags or favourites.
        """
        async with self.turn(tenant):
            return await self._mark(tenant, ids, marking)

    @in_thread
    def _mark(self, tenant: str, ids: Collection[str], marking: Marking) -> int:
        with self._session.write() as tx:
            if self.is_shared:
                # one after the other, as in SQLite: otherwise two transactions could both be the last within a limit
                tx.execute(select(func.pg_advisory_xact_lock(_MARKING, func.hashtext(tenant))))
            # locked in their order: in others, this and a removal could wait for each other
            own = select(generations.c.id, generations.c.seq).where(is_among(ids), generations.c.tenant == tenant)
            found = {row.id: row.seq for row in tx.execute(own.order_by(generations.c.seq).with_for_update())}
            if unknown := [id_ for id_ in ids if id_ not in found]:
                raise UnknownGenerationsError(unknown)
            numbers = [*found.values()]
            if marking.favourite is not None:
                marked = update(generations).where(generations.c.seq.in_(numbers))
                tx.execute(marked.values(favourite=marking.favourite))
                if marking.favourite:
                    _check_favourites(tx, tenant)
            _untag(tx, numbers, marking)
            if added := [*(marking.tags or ()), *marking.add]:
                _tag(tx, tenant, numbers, added)
            return len(numbers)

    async def tags(self, tenant: str) -> list[Counted]:
        """The tags of a tenant's generations, the most frequent first."""
        async with self.turn(tenant):
            return await self._tags(tenant)

    @in_thread_of(Pool.READS)
    def _tags(self, tenant: str) -> list[Counted]:
        with self._session.read() as tx:
            return _counted(tx, tags.c.tag, tags.c.tenant == tenant, MAX_TAGS_OF_TENANT)

    async def facets(self, tenant: str) -> tuple[list[Counted], list[Counted], int]:
        """The models that a tenant's generations name and their sizes, the most frequent first, and the favourites."""
        async with self.turn(tenant):
            return await self._facets(tenant)

    @in_thread_of(Pool.READS)
    def _facets(self, tenant: str) -> tuple[list[Counted], list[Counted], int]:
        own = generations.c.tenant == tenant
        model = func.coalesce(generations.c.asked_model, generations.c.model)
        with self._session.read() as tx:
            models = _counted(tx, model, own, MAX_COUNTED)
            sizes = _counted(tx, generations.c.size, own, MAX_COUNTED)
            return models, sizes, _count_favourites(tx, tenant)

    async def chosen(self, ids: Collection[str], tenant: str) -> list[Chosen]:
        """Those of some generations that there are, newest first."""
        async with self.turn(tenant):
            return await self._chosen(is_among(ids), generations.c.tenant == tenant)

    async def numbered(self, numbers: Collection[int]) -> list[Chosen]:
        """The generations of any tenant with these numbers (`seq`), newest first."""
        return await self._chosen(generations.c.seq.in_(numbers))

    @in_thread_of(Pool.READS)
    def _chosen(self, *wanted: ColumnElement[bool]) -> list[Chosen]:
        columns = [generations.c[name] for name in ("seq", "id", "status", "artifact", "completed_at", "parameters")]
        with self._session.read() as tx:
            found = tx.execute(select(*columns).where(*wanted).order_by(generations.c.seq.desc())).all()
        return [
            Chosen(row.seq, row.id, Status(row.status), row.artifact, row.completed_at, _beginning(row.parameters))
            for row in found
        ]


def _beginning(parameters: Mapping[str, Any]) -> str:
    """The beginning of a prompt; an invalid request may have one that is no text."""
    prompt = parameters.get("prompt")
    return prompt[:_PROMPT_CHARS] if isinstance(prompt, str) else ""


def _counted(tx: Connection, value: ColumnElement[Any], own: ColumnElement[bool], most: int) -> list[Counted]:
    count = func.count()
    wanted = select(value, count).where(own, value.is_not(None)).group_by(value).order_by(count.desc(), value)
    return [Counted(name, number) for name, number in tx.execute(wanted.limit(most))]


def _count_favourites(tx: Connection, tenant: str) -> int:
    own = select(func.count()).select_from(generations).where(generations.c.tenant == tenant, IS_FAVOURITE)
    return tx.scalar(own) or 0


def _check_favourites(tx: Connection, tenant: str) -> None:
    if _count_favourites(tx, tenant) > MAX_FAVOURITES:
        raise MarkLimitError(f"There may be at most {MAX_FAVOURITES} favourites.")


def _untag(tx: Connection, numbers: Sequence[int], marking: Marking) -> None:
    theirs = delete(tags).where(tags.c.seq.in_(numbers))
    if marking.tags is not None:
        tx.execute(theirs.where(tags.c.tag.not_in(marking.tags)))
    if marking.remove:
        tx.execute(theirs.where(tags.c.tag.in_(marking.remove)))


def _tag(tx: Connection, tenant: str, numbers: Sequence[int], added: Sequence[str]) -> None:
    new = [{"seq": seq, "tag": tag, "tenant": tenant} for seq in numbers for tag in added]
    tx.execute(_INSERT[tx.dialect.name](tags).on_conflict_do_nothing(), new)
    counts = select(func.count()).where(tags.c.seq.in_(numbers)).group_by(tags.c.seq).subquery()
    if (most := tx.scalar(select(func.max(counts.c[0]))) or 0) > MAX_TAGS:
        raise MarkLimitError(f"A generation may have at most {MAX_TAGS} tags: one of these would have {most}.")
    different = tx.scalar(select(func.count(distinct(tags.c.tag))).where(tags.c.tenant == tenant)) or 0
    if different > MAX_TAGS_OF_TENANT:
        raise MarkLimitError(f"There may be at most {MAX_TAGS_OF_TENANT} different tags: these would be {different}.")
