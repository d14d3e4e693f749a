"""The results of attempts, and the claims that they hold."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update

from server.core.generation import Generation, Outcome, Status
from server.core.retry import NextStep, RetryDecision
from server.storage.db.schema import generations
from server.storage.db.session import in_thread
from server.storage.db.statements.queue import fair_queue
from server.storage.db.statements.queue.claiming import Claiming
from server.storage.db.statements.rows import from_row
from server.storage.db.statements.transitions import change, finish, requeue

# begins the name of no owner
_NO_SERVER = "-/"


class Attempts(Claiming):
    """Claims generations for devices, and records how the attempts go.

    A method that takes the `held` generation raises StaleAttemptError if that attempt no longer holds it.
    """

    @in_thread
    def renew(
        self,
        held: Generation,
        lease: float,
        saved: float,
        fingerprint: dict[str, str] | None,
        warnings: Sequence[str] = (),
        host: str | None = None,
    ) -> None:
        """Extend a claim to `lease` seconds from now, and record the progress (0 … 1) that a checkpoint holds.

        `fingerprint` and `host` tell with what, and where in a cluster, the model was loaded.
        """
        facts = {"progress": saved, "fingerprint": fingerprint, "host": host, **_said(warnings)}
        with self._session.write() as tx:
            change(tx, held, Status.PROCESSING, lease_until=self._session.now() + lease, **facts)

    @in_thread
    def succeed(
        self,
        held: Generation,
        artifact: str,
        fingerprint: dict[str, str] | None = None,
        warnings: Sequence[str] = (),
        *,
        has_audio: bool = False,
        has_stills: bool | None = None,
    ) -> Generation:
        """Record a finished video, and its fingerprint if that has changed. The whole file must be on disk before."""
        files = {"artifact": artifact, "has_audio": has_audio, "has_stills": has_stills}
        changed: dict[str, Any] = {**files, "progress": 1.0, **_said(warnings)}
        if fingerprint is not None:
            changed["fingerprint"] = fingerprint
        with self._session.write() as tx:
            now, succeeded = self._session.now(), Status.SUCCEEDED
            self.tell(tx, [held.id])
            return finish(tx, held, succeeded, Outcome.SUCCEEDED, now, **changed)

    @in_thread
    def fail(self, held: Generation, message: str, warnings: Sequence[str] = ()) -> Generation:
        """Record that a generation failed, with the sentence for its user."""
        said = _said(warnings)
        with self._session.write() as tx:
            self.tell(tx, [held.id])
            return finish(tx, held, Status.FAILED, Outcome.FAILED, self._session.now(), error_message=message, **said)

    @in_thread
    def retry(self, held: Generation, decision: RetryDecision) -> Generation:
        """Carry out the decision on an attempt that ended without a result."""
        now, outcome = self._session.now(), decision.outcome
        # an abandoned attempt is not ended by its owner: it may only be ended once its lease has expired
        conditions = [generations.c.lease_until <= now] if outcome is Outcome.ABANDONED else []
        counts = {
            "worker_deaths": decision.worker_deaths,
            "server_deaths": decision.server_deaths,
            "furthest": decision.furthest,
        }
        with self._session.write() as tx:
            self.tell(tx, [held.id])
            if decision.next_step is NextStep.FAIL:
                message = decision.error_message
                return finish(tx, held, Status.FAILED, outcome, now, *conditions, error_message=message, **counts)
            if decision.next_step is NextStep.MOVE_TO_END:
                youngest = tx.scalar(select(func.max(generations.c.seq)))
                return requeue(
                    tx, held, outcome, now, *conditions, progress=decision.saved, deferred_behind=youngest, **counts
                )
            requeued = requeue(tx, held, outcome, now, *conditions, progress=decision.saved, **counts)
            fair_queue.give_back(tx, held.tenant)
            return requeued

    def owns(self, held: Generation) -> bool:
        """Whether this server, before it restarted or now, holds a generation."""
        return not self.is_shared or (held.owner or "").startswith(self.server or _NO_SERVER)

    @in_thread
    def expire_leases(self) -> None:
        """End the leases that this server held before it restarted."""
        own = [generations.c.owner.startswith(self.server or _NO_SERVER, autoescape=True)] if self.is_shared else []
        with self._session.write() as tx:
            tx.execute(
                # zero, not now: a clock that is set back must not make them valid again
                update(generations).where(generations.c.status == Status.PROCESSING, *own).values(lease_until=0.0)
            )

    @in_thread
    def abandoned(self) -> list[Generation]:
        """The generations whose lease has expired, in their order."""
        with self._session.read() as tx:
            rows = tx.execute(
                select(generations)
                .where(generations.c.status == Status.PROCESSING)
                .where(generations.c.lease_until <= self._session.now())
                .order_by(generations.c.seq)
            ).mappings()
            return [from_row(row) for row in rows]


def _said(warnings: Sequence[str]) -> dict[str, Any]:
    """Return the column for warnings if there are any; an earlier attempt's stay otherwise."""
    return {"warnings": list(warnings)} if warnings else {}
