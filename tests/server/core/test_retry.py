"""The retry decision after an attempt that ended without a result, case by case."""

import pytest

from server.core.generation import Generation, Origin, Outcome, Status
from server.core.retry import (
    SERVER_DEATHS_ALLOWED,
    Blame,
    Interruption,
    NextStep,
    RetryDecision,
    blame_for_worker_death,
    decide,
)

KEEP, END, FAIL = NextStep.KEEP_PLACE, NextStep.MOVE_TO_END, NextStep.FAIL


def generation(worker_deaths: int = 0, server_deaths: int = 0, furthest: float = 0.4) -> Generation:
    return Generation(
        id="one",
        model="wan",
        status=Status.PROCESSING,
        origin=Origin.QUEUE,
        enqueued_at=0.0,
        worker_deaths=worker_deaths,
        server_deaths=server_deaths,
        furthest=furthest,
    )


def after(before: Generation, blame: Blame, reached: float = 0.4) -> RetryDecision:
    return decide(before, Interruption(blame, reached, saved=0.3, why="it was killed by SIGSEGV"))


@pytest.mark.parametrize(
    ("blame", "worker_deaths", "server_deaths", "expected", "counts"),
    [
        (Blame.NONE, 0, 0, KEEP, (0, 0)),
        (Blame.NONE, 1, 2, KEEP, (1, 2)),
        (Blame.NONE, 1, 3, END, (1, 3)),
        (Blame.NONE, 0, 9, END, (0, 9)),
        (Blame.WORKER, 0, 0, KEEP, (1, 0)),
        (Blame.WORKER, 1, 0, FAIL, (2, 0)),
        (Blame.WORKER, 0, 2, KEEP, (1, 2)),
        (Blame.WORKER, 0, 3, END, (1, 3)),
        (Blame.WORKER, 1, 3, FAIL, (2, 3)),
        *(
            (blame, worker_deaths, deaths, expected, (worker_deaths, deaths + 1))
            for blame in (Blame.SERVER, Blame.HOST)
            for worker_deaths in (0, 1)
            for deaths, expected in enumerate([KEEP] * 2 + [END] * 7 + [FAIL] * 3)
        ),
    ],
)
def test_each_case_without_progress(
    blame: Blame, worker_deaths: int, server_deaths: int, expected: NextStep, counts: tuple[int, int]
) -> None:
    decision = after(generation(worker_deaths, server_deaths), blame)

    assert decision.next_step is expected
    assert (decision.worker_deaths, decision.server_deaths) == counts
    assert (decision.furthest, decision.saved) == (0.4, 0.3)
    assert (decision.error_message is not None) == (expected is FAIL)


@pytest.mark.parametrize("blame", Blame)
def test_progress_resets_the_counts(blame: Blame) -> None:
    decision = after(generation(worker_deaths=1, server_deaths=9), blame, reached=0.41)

    assert decision.next_step is KEEP
    assert decision.worker_deaths == (blame is Blame.WORKER)
    assert decision.server_deaths == (blame in (Blame.SERVER, Blame.HOST))
    assert decision.furthest == 0.41


def test_reaching_less_than_before_is_not_progress() -> None:
    decision = after(generation(server_deaths=2, furthest=0.4), Blame.SERVER, reached=0.39)

    assert (decision.next_step, decision.furthest) == (END, 0.4)


@pytest.mark.parametrize(
    ("blame", "sentence"),
    [
        (
            Blame.WORKER,
            "The worker process died 2 times in a row on this generation: it was killed by SIGSEGV",
        ),
        (
            Blame.SERVER,
            "The server died 10 times in a row while it ran this generation, without progress in between.",
        ),
        (Blame.HOST, "The host died 10 times in a row while it ran this generation, without progress in between."),
    ],
)
def test_the_error_message_gives_the_reason(blame: Blame, sentence: str) -> None:
    before = generation(worker_deaths=1, server_deaths=SERVER_DEATHS_ALLOWED - 1)

    assert after(before, blame).error_message == sentence


@pytest.mark.parametrize(
    ("blame", "outcome"),
    [
        (Blame.NONE, Outcome.RELEASED),
        (Blame.WORKER, Outcome.WORKER_DIED),
        (Blame.SERVER, Outcome.ABANDONED),
        (Blame.HOST, Outcome.ABANDONED),
    ],
)
def test_the_outcome_of_the_attempt_depends_on_the_blame(blame: Blame, outcome: Outcome) -> None:
    assert after(generation(), blame).outcome is outcome


@pytest.mark.parametrize(
    ("on_device", "device_is_free", "is_stuck", "blame"),
    [
        (True, False, False, Blame.WORKER),
        (True, False, True, Blame.WORKER),
        (False, True, False, Blame.WORKER),
        (False, False, True, Blame.WORKER),
        (False, False, False, Blame.NONE),
    ],
)
def test_a_generation_that_writes_its_file_is_not_blamed_for_one_on_the_device(
    on_device: bool, device_is_free: bool, is_stuck: bool, blame: Blame
) -> None:
    assert blame_for_worker_death(on_device=on_device, device_is_free=device_is_free, is_stuck=is_stuck) is blame
