"""The progress of running attempts, which their servers record for the others on the same database."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields

from sqlalchemy import Connection, bindparam, select, text, tuple_, update

from server.core.events import Live
from server.core.generation import Generation, Status
from server.storage.db.schema import attempts
from server.storage.db.session import Repository, in_thread

_FIELDS = {field.name for field in fields(Live)}

_RECORD = (
    update(attempts)
    .where(attempts.c.generation_id == bindparam("id"), attempts.c.attempt == bindparam("number"))
    # a late one would stay for good
    .where(attempts.c.outcome.is_(None))
    .values(live=bindparam("now"))
)


class LiveProgress(Repository):
    """Records progress. An attempt has none once it has ended."""

    @in_thread
    def record(self, lives: Mapping[tuple[str, int], Live]) -> None:
        """Record the progress of attempts, by generation and number, and tell other servers.

        The next one replaces it within seconds: the disk is not waited for.
        """
        with self._session.write() as tx:
            if self.is_shared:
                tx.execute(text("SET LOCAL synchronous_commit = off"))
            rows = [{"id": id_, "number": number, "now": asdict(live)} for (id_, number), live in lives.items()]
            tx.execute(_RECORD, rows)
            self.tell(tx, (id_ for id_, _ in lives))


def lives_of(tx: Connection, generations: Iterable[Generation]) -> dict[str, Live]:
    """The recorded progress of those that run, by their ids."""
    running = [(each.id, each.attempt) for each in generations if each.status is Status.PROCESSING]
    if not running:
        return {}
    found = select(attempts.c.generation_id, attempts.c.live).where(
        tuple_(attempts.c.generation_id, attempts.c.attempt).in_(running), attempts.c.live.is_not(None)
    )
    # that of a server of another version, which was killed, may have other fields
    return {
        id_: Live(**{name: live[name] for name in _FIELDS & live.keys()})
        for id_, live in tx.execute(found)
        if "progress" in live
    }
