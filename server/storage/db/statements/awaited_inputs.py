"""Generations that cannot be claimed before their input has been fetched, or their prompt has been rewritten."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, func, or_, select, true, update

from pipelines.core.request import INPUTS
from server.core.generation import ENHANCED_PROMPT, Generation, Status
from server.storage.db.schema import IS_AWAITING, generations
from server.storage.db.session import Repository, in_thread
from server.storage.db.statements.rows import from_row, is_among, to_row
from server.storage.db.statements.transitions import next_event_number
from server.storage.webhooks.outbox import record_events

_FILLED_IN = ("params", "size", *INPUTS, "warnings", "awaited_input", "enhancement")
"""What an input, or a rewritten prompt, decides of a row."""

OTHERS_SECONDS = 120.0
"""For so long the server that accepted a generation is left to fetch its inputs."""

OTHERS_REWRITES_SECONDS = 900.0
"""For so long it is left to have its prompt rewritten: a language model on a processor answers few in a minute."""

ABANDONED_SECONDS = 3600.0
"""After so long any server may end a generation whose prompt it cannot have rewritten."""


@dataclass(frozen=True, slots=True)
class AwaitedInput:
    """A URL that a generation of a tenant awaits; `field` is the one of its parameters that names the input."""

    tenant: str
    url: str
    field: str
    generation_id: str


@dataclass(frozen=True, slots=True)
class AwaitedRewrite:
    """A generation of a tenant whose prompt has to be rewritten, with all those of its `request`.

    `is_ours`: this server accepted it, or nobody else has come for it in a long time.
    """

    tenant: str
    request: str
    generation_id: str
    is_ours: bool = True


class AwaitedInputs(Repository):
    """Finds the generations that await an input, and records that it came, or why it does not come.

    A rewritten prompt is an input, too: instead of a URL it has the name ENHANCED_PROMPT. One that was cancelled
    meanwhile awaits none any more, and is left as it is. So is one for which another server has been faster: each
    change is made only while the generation awaits the URL that was fetched.
    """

    @in_thread
    def awaited(self) -> list[AwaitedInput]:
        """What each generation that awaits an input awaits, in their order.

        Those that another server accepted are left to it for a while.
        """
        video, audio = (generations.c.parameters[name].as_string() for name in ("input_video", "input_audio"))
        field = case(
            # it comes before all others, of which one may have the same URL
            (and_(audio == generations.c.awaited_input, generations.c.audio.is_(None)), "audio"),
            (video == generations.c.awaited_input, "video"),
            # the first image comes first, and so does the video that is extended
            (or_(generations.c.image.is_not(None), generations.c.extends.is_not(None)), "last_image"),
            else_="image",
        )
        columns = generations.c.tenant, generations.c.awaited_input, field, generations.c.id
        is_url = generations.c.awaited_input != ENHANCED_PROMPT
        with self._session.read() as tx:
            mine = self._of_others_after(OTHERS_SECONDS)
            found = tx.execute(select(*columns).where(IS_AWAITING, is_url, mine).order_by(generations.c.seq))
            return [AwaitedInput(*row) for row in found]

    @in_thread
    def awaiting_rewrite(self, *, has_model: bool = True) -> list[AwaitedRewrite]:
        """The generations that await nothing but a rewritten prompt, in their order.

        Those that another server accepted are left to it for a while, and for longer by one without a model.
        """
        columns = (
            generations.c.tenant,
            generations.c.enhancement["request"].as_string(),
            generations.c.id,
            self._of_others_after(ABANDONED_SECONDS),
        )
        mine = self._of_others_after(OTHERS_REWRITES_SECONDS if has_model else ABANDONED_SECONDS)
        with self._session.read() as tx:
            found = tx.execute(select(*columns).where(*_awaits(ENHANCED_PROMPT), mine).order_by(generations.c.seq))
            return [AwaitedRewrite(tenant, request, id_, bool(is_ours)) for tenant, request, id_, is_ours in found]

    def _of_others_after(self, seconds: float) -> ColumnElement[bool]:
        """What this server accepted, and what any other did so many seconds ago."""
        if not self.is_shared:
            return true()
        is_own = func.coalesce(generations.c.accepted_by, self.server) == self.server
        return or_(is_own, generations.c.enqueued_at < self._session.now() - seconds)

    @in_thread
    def awaiting(self, url: str, ids: Collection[str]) -> list[Generation]:
        """Those of the generations that await a URL, in their order."""
        with self._session.read() as tx:
            rows = tx.execute(select(generations).where(is_among(ids), *_awaits(url)).order_by(generations.c.seq))
            return [from_row(row) for row in rows.mappings()]

    @in_thread
    def arrived(self, url: str, complete: Sequence[Generation]) -> list[str]:
        """Record the parameters and warnings that generations have now that the input at a URL is known.

        They may be claimed, unless they await another one. Returns the ids of those that still awaited it.
        """
        arrived = []
        with self._session.write() as tx:
            for generation in complete:
                row = to_row(generation)
                values = {name: row[name] for name in _FILLED_IN}
                changed = update(generations).where(generations.c.id == generation.id, *_awaits(url))
                if tx.execute(changed.values(**values)).rowcount:
                    arrived.append(generation.id)
            self.tell(tx, arrived)
        return arrived

    @in_thread
    def failed(self, tenant: str, url: str, ids: Collection[str], message: str) -> list[Generation]:
        """Record that the input at a URL cannot be had for a tenant's generations. Returns those that failed now."""
        with self._session.write() as tx:
            # the counter first, as everywhere: in other orders two transactions could deadlock
            next_event_number(tx, tenant, 0)
            waiting = select(generations.c.id).where(is_among(ids), *_awaits(url)).order_by(generations.c.seq)
            still = tx.scalars(waiting.with_for_update()).all()
            if not still:
                return []
            now = self._session.now()
            failed, first = [], next_event_number(tx, tenant, len(still))
            for number, id_ in enumerate(still, first):
                ended = {"status": Status.FAILED, "error_message": message, "completed_at": now}
                changed = update(generations).where(generations.c.id == id_).values(event_number=number, **ended)
                failed.append(from_row(tx.execute(changed.returning(generations)).mappings().one()))
            record_events(tx, failed, now)
            self.tell(tx, still)
            return failed


def _awaits(url: str) -> tuple[ColumnElement[bool], ...]:
    return IS_AWAITING, generations.c.awaited_input == url
