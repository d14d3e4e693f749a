"""Generations that cannot be claimed before their image has been fetched."""

from collections.abc import Collection, Sequence

from sqlalchemy import select, update

from server.core.generation import Generation, Status
from server.storage.db.schema import IS_AWAITING, generations
from server.storage.db.session import Repository, in_thread
from server.storage.db.statements.rows import from_row, is_among, to_row
from server.storage.db.statements.transitions import next_event_number

_FILLED_IN = ("params", "image", "warnings")
"""What an image decides of a row, besides that it is no longer awaited."""


class AwaitedInputs(Repository):
    """Finds the generations that await an image, and records that it came, or why it does not come.

    One that was cancelled meanwhile awaits none any more, and is left as it is.
    """

    @in_thread
    def awaited(self) -> list[tuple[str, str, str]]:
        """The tenant, the URL and the id of each generation that awaits an image, in their order."""
        columns = generations.c.tenant, generations.c.awaited_input, generations.c.id
        with self._session.read() as tx:
            found = tx.execute(select(*columns).where(IS_AWAITING).order_by(generations.c.seq))
            return [(row.tenant, row.awaited_input, row.id) for row in found]

    @in_thread
    def awaiting(self, ids: Collection[str]) -> list[Generation]:
        """Those of the generations that await an image, in their order."""
        with self._session.read() as tx:
            rows = tx.execute(select(generations).where(is_among(ids), IS_AWAITING).order_by(generations.c.seq))
            return [from_row(row) for row in rows.mappings()]

    @in_thread
    def arrived(self, complete: Sequence[Generation]) -> list[str]:
        """Let generations be claimed, with the parameters and warnings that they have now that their image is known.

        Returns the ids of those that may be claimed now.
        """
        arrived = []
        with self._session.write() as tx:
            for generation in complete:
                row = to_row(generation)
                values = {name: row[name] for name in _FILLED_IN}
                changed = update(generations).where(generations.c.id == generation.id, IS_AWAITING)
                if tx.execute(changed.values(awaited_input=None, **values)).rowcount:
                    arrived.append(generation.id)
        return arrived

    @in_thread
    def failed(self, tenant: str, ids: Collection[str], message: str) -> list[Generation]:
        """Record that the image of a tenant's generations cannot be had. Returns those that have failed now."""
        with self._session.write() as tx:
            # the counter first, as everywhere: in other orders two transactions could deadlock
            next_event_number(tx, tenant, 0)
            waiting = select(generations.c.id).where(is_among(ids), IS_AWAITING).order_by(generations.c.seq)
            still = tx.scalars(waiting.with_for_update()).all()
            if not still:
                return []
            failed, first = [], next_event_number(tx, tenant, len(still))
            for number, id_ in enumerate(still, first):
                ended = {"status": Status.FAILED, "error_message": message, "completed_at": self._session.now()}
                changed = update(generations).where(generations.c.id == id_).values(event_number=number, **ended)
                failed.append(from_row(tx.execute(changed.returning(generations)).mappings().one()))
            return failed
