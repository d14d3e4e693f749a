"""Statements for retention: find the rows and files that may be removed, and remove rows."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, delete, false, select, update

from pipelines.core.request import INPUTS
from server.core.generation import TERMINAL, Generation, Status
from server.storage.db import search
from server.storage.db.schema import HAS_FILES, HAS_INPUTS, IS_FAVOURITE, attempts, generations
from server.storage.db.session import Repository, in_thread
from server.storage.db.statements.rows import from_row, is_among


class Expiry(Repository):
    """Finds and removes what is no longer kept. A generation that waits or runs is never removed."""

    @in_thread
    def superseded(self, files: Mapping[str, str]) -> list[str]:
        """Of files by storage key, each with its generation's id, those whose generation ended with another or none."""
        ended = generations.c.status.in_(TERMINAL)
        with self._session.read() as tx:
            rows = tx.execute(select(generations.c.id, generations.c.artifact).where(is_among(files.values()), ended))
            named = {row.id: row.artifact for row in rows}
        return [key for key, about in files.items() if about in named and named[about] != key]

    @in_thread
    def ended(self, ids: Sequence[str]) -> list[str]:
        """Of these generations those that are over or unknown."""
        with self._session.read() as tx:
            active = tx.scalars(
                select(generations.c.id).where(generations.c.id.in_(ids), generations.c.status.not_in(TERMINAL))
            ).all()
        return sorted(set(ids) - set(active))

    @in_thread
    def running(self, ids: Sequence[str]) -> dict[str, int]:
        """Of these generations those that some server runs, each with the number of its attempt."""
        with self._session.read() as tx:
            running = generations.c.status == Status.PROCESSING
            found = tx.execute(select(generations.c.id, generations.c.attempt).where(is_among(ids), running))
            return {row.id: row.attempt for row in found}

    @in_thread
    def unknown(self, files: Mapping[str, str]) -> list[str]:
        """Of files by storage key, each with its generation's id, those whose generation is not in the records."""
        with self._session.read() as tx:
            known = set(tx.scalars(select(generations.c.id).where(is_among(files.values()))))
        return [key for key, about in files.items() if about not in known]

    @in_thread
    def unused_inputs(self, inputs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Of inputs, each by its tenant and its digest, those that no generation names."""
        digests = list({digest for _, digest in inputs})
        unused = set(inputs)
        with self._session.read() as tx:
            for column in (generations.c[name] for name in INPUTS):
                found = tx.execute(select(generations.c.tenant, column).where(column.in_(digests)).distinct())
                unused -= {(tenant, digest) for tenant, digest in found}
        return unused

    @in_thread
    def forget(self, before: float, limit: int) -> list[Generation]:
        """Remove the oldest generations that ended before a moment, at most `limit`; returns them as they were.

        Favourites stay.
        """
        with self._session.write() as tx:
            # only what has ended has this time: the index alone finds it
            rows = tx.execute(
                select(generations)
                .where(generations.c.completed_at < before, generations.c.favourite == false())
                .order_by(generations.c.completed_at)
                .limit(limit)
            ).mappings()
            forgotten = [from_row(row) for row in rows]
            _forget(tx, forgotten)
            return forgotten

    async def remove(self, ids: Collection[str], tenant: str) -> tuple[list[Generation], dict[str, Status]]:
        """Remove those of some generations that are over.

        Returns them as they were, and the status of each of the others by its id, but for unknown ones.
        """
        async with self.turn(tenant):
            return await self._remove(ids, tenant)

    @in_thread
    def _remove(self, ids: Collection[str], tenant: str) -> tuple[list[Generation], dict[str, Status]]:
        wanted = select(generations).where(is_among(ids), generations.c.tenant == tenant).order_by(generations.c.seq)
        with self._session.write() as tx:
            found = [from_row(row) for row in tx.execute(wanted.with_for_update()).mappings()]
            over = [each for each in found if each.is_terminal]
            _forget(tx, over)
            return over, {each.id: each.status for each in found if not each.is_terminal}

    @in_thread
    def oldest_with_files(self, before: float, limit: int) -> list[Generation]:
        """Generations with a video or an input that ended before a moment, at most `limit`.

        The oldest come first, and all favourites after the others.
        """
        ended = select(generations).where(HAS_FILES, generations.c.completed_at < before)
        found = list[Generation]()
        with self._session.read() as tx:
            # one after the other, each by the index
            for kind in (generations.c.favourite == false(), IS_FAVOURITE):
                oldest = ended.where(kind).order_by(generations.c.completed_at).limit(limit - len(found))
                found += [from_row(row) for row in tx.execute(oldest).mappings()]
        return found

    @in_thread
    def withdraw(self, ended: Sequence[Generation], why: str) -> None:
        """Record that the videos of these generations are gone, and why, and that they name their inputs no more.

        Remove the files after, not before.
        """
        gone = update(generations).where(
            is_among(generation.id for generation in ended), generations.c.status.in_(TERMINAL)
        )
        with self._session.write() as tx:
            tx.execute(gone.where(generations.c.artifact.is_not(None)).values(artifact=None, error_message=why))
            tx.execute(gone.where(HAS_INPUTS).values(dict.fromkeys(INPUTS)))


def _forget(tx: Connection, ended: Sequence[Generation]) -> None:
    """Remove rows with all that belongs to them; the database itself removes their tags."""
    ids = [generation.id for generation in ended]
    tx.execute(delete(attempts).where(attempts.c.generation_id.in_(ids)))
    search.remove(tx, [generation.seq for generation in ended])
    tx.execute(delete(generations).where(is_among(ids), generations.c.status.in_(TERMINAL)))
