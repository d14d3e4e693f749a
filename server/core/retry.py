"""What happens to a generation whose attempt ended without a result: another attempt, now or later, or failure.

| The attempt ended because | Deaths in a row without progress | Then the generation |
| --- | --- | --- |
| its server stopped, or its worker died of another generation | any | keeps its place in the queue |
| nothing can be made on the device now | any | keeps its place |
| its worker died | 1 | keeps its place |
| its worker died | 2 | fails |
| its server died, or the server's host | 1, 2 | keeps its place |
| its server died, or the server's host | 3 to 9 | goes to the end of the queue |
| its server died, or the server's host | 10 | fails |

Progress is more than any attempt is known to have reached before; it sets the counts back to zero. While three or more
deaths of servers are counted, a generation goes to the end of the queue whatever ended its attempt: otherwise it would
bring the server down again before the others had their turn.
"""

from dataclasses import dataclass
from enum import StrEnum

from server.core.generation import Generation, Outcome

WORKER_DEATHS_ALLOWED = 2
"""A generation fails at this many deaths of its worker in a row without progress."""

SERVER_DEATHS_IN_PLACE = 2
"""After so many deaths of its server in a row without progress a generation still keeps its place in the queue."""

SERVER_DEATHS_ALLOWED = 10
"""A generation fails at this many deaths of its server in a row without progress."""


class Blame(StrEnum):
    """What a generation may have brought down."""

    NONE = "none"
    WORKER = "worker"
    SERVER = "server"
    HOST = "host"
    """The server that held the generation has not come back: its lease ran out."""


class NextStep(StrEnum):
    """What becomes of the generation."""

    KEEP_PLACE = "keep_place"
    MOVE_TO_END = "move_to_end"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Interruption:
    """How an attempt ended that has no result.

    It had `reached` a progress (0 … 1) as far as is known, of which a checkpoint holds what was `saved`: the next
    attempt goes on from there. `why` is a sentence about the death.
    """

    blame: Blame
    reached: float
    saved: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What becomes of a generation, and the values its record gets; `error_message` if it fails."""

    next_step: NextStep
    outcome: Outcome
    worker_deaths: int
    server_deaths: int
    furthest: float
    saved: float
    error_message: str | None = None


def decide(generation: Generation, interruption: Interruption) -> RetryDecision:
    """The decision for a generation, as recorded when the attempt began, by the table above."""
    blame, reached = interruption.blame, interruption.reached
    progressed = reached > generation.furthest
    worker_deaths = (0 if progressed else generation.worker_deaths) + (blame is Blame.WORKER)
    server_deaths = (0 if progressed else generation.server_deaths) + (blame in (Blame.SERVER, Blame.HOST))
    next_step, message = NextStep.KEEP_PLACE, None
    if blame is Blame.WORKER and worker_deaths >= WORKER_DEATHS_ALLOWED:
        next_step = NextStep.FAIL
        message = f"The worker process died {worker_deaths} times in a row on this generation: {interruption.why}"
    elif server_deaths >= SERVER_DEATHS_ALLOWED and blame in (Blame.SERVER, Blame.HOST):
        next_step = NextStep.FAIL
        message = (
            f"The {blame} died {server_deaths} times in a row while it ran this generation, "
            "without progress in between."
        )
    elif server_deaths > SERVER_DEATHS_IN_PLACE:
        next_step = NextStep.MOVE_TO_END
    return RetryDecision(
        next_step,
        _OUTCOMES[blame],
        worker_deaths,
        server_deaths,
        max(reached, generation.furthest),
        interruption.saved,
        message,
    )


def blame_for_worker_death(*, on_device: bool, device_is_free: bool, is_stuck: bool) -> Blame:
    """Whether a generation is to blame for the death of the worker that held it.

    A worker makes one video on its device (`on_device`) and may finish the file of the one before. If it dies while it
    does both, the one on the device is to blame, unless the worker was killed because it was stuck on the file
    (`is_stuck`).
    """
    return Blame.WORKER if on_device or device_is_free or is_stuck else Blame.NONE


_OUTCOMES = {
    Blame.NONE: Outcome.RELEASED,
    Blame.WORKER: Outcome.WORKER_DIED,
    Blame.SERVER: Outcome.ABANDONED,
    Blame.HOST: Outcome.ABANDONED,
}
