"""Statements for the stills of finished videos: which videos have none yet, and what has become of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update

from server.core.generation import Status
from server.storage.db.schema import LACKS_STILLS, generations
from server.storage.db.session import Repository, in_thread


@dataclass(frozen=True, slots=True)
class Undrawn:
    """A finished video that has no stills: the generation's `seq` and `id`, and the storage key of its file."""

    seq: int
    id: str
    artifact: str


class StillsRecords(Repository):
    """Finds videos without stills, and records which have them."""

    @in_thread
    def undrawn(self, before: int | None, limit: int) -> Sequence[Undrawn]:
        """Videos whose stills nobody has drawn, newest first, at most `limit`; only those with a lower `seq`."""
        columns = generations.c
        older = [] if before is None else [columns.seq < before]
        wanted = select(columns.seq, columns.id, columns.artifact).where(LACKS_STILLS, *older)
        with self._session.read() as tx:
            found = tx.execute(wanted.order_by(columns.seq.desc()).limit(limit))
            return [Undrawn(row.seq, row.id, row.artifact) for row in found]

    @in_thread
    def note(self, video: Undrawn, *, has_stills: bool) -> bool:
        """Record whether a video has stills; False if it is not kept any more."""
        columns = generations.c
        kept = (columns.id == video.id, columns.artifact == video.artifact, columns.status == Status.SUCCEEDED)
        with self._session.write() as tx:
            return tx.execute(update(generations).where(*kept).values(has_stills=has_stills)).rowcount == 1
