"""The attacks of `tests.stress.attack`: that they attack, and that what the victim notices is measured."""

from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

from tests.stress.attack.__main__ import faults, measure, row
from tests.stress.attack.victim import INTERVAL, Seen, spread

FIGURES = {
    "exit_status": None,
    "recovery_seconds": 0.1,
    "peak_mib": 100.0,
    "ms": {"enqueue": {"p99": 20.0}},
    "videos": {"succeeded": 9, "failed": 0, "late": 4},
    "in_the_log": {},
    "attacker": {"200": 5, "503": 1},
}


def test_a_slow_answer_counts_also_for_the_requests_that_it_held_up() -> None:
    seen = Seen(seconds={"enqueue": [INTERVAL / 2, 2.5 * INTERVAL]})

    assert sorted(seen.latencies("enqueue")) == pytest.approx([n * INTERVAL for n in (0.5, 0.5, 1.5, 2.5)])


def test_a_spread_is_in_milliseconds() -> None:
    assert spread([0.001 * n for n in range(1000)]) == {"p50": 500.0, "p95": 950.0, "p99": 990.0, "max": 999.0}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"exit_status": -9}, "the server ended with status -9"),
        ({"recovery_seconds": None}, "the server does not recover"),
        ({"peak_mib": 512.1}, "512 MiB"),
        ({"ms": {"enqueue": {"p99": 100.0}}}, "enqueue p99 100 ms"),
        ({"videos": {"succeeded": 9, "failed": 1, "late": 4}}, "1 videos failed"),
        ({"videos": {"succeeded": 9, "failed": 0, "late": 0}}, "no video was made in its second half"),
        ({"in_the_log": {"Traceback": 2}}, "log: Traceback: 2"),
        ({"attacker": {"500": 1}}, "status 500"),
    ],
)
def test_what_counts_as_a_fault(changed: dict[str, object], fault: str | None) -> None:
    answers = Counter({"enqueue 200": 5, "newcomer 503": 1})

    assert faults({**FIGURES, **changed}, Seen(answers=answers)) == ([] if fault is None else [fault])


def test_a_refused_request_of_the_victim_is_a_fault() -> None:
    assert faults(FIGURES, Seen(answers=Counter({"poll 429": 3}))) == ["victim: poll 429: 3"]


@pytest.mark.heavy
def test_an_attack_is_carried_out_and_measured(tmp_path: Path) -> None:
    figures = measure("polls", Namespace(seconds=4.0, connections=4, history=0, logs=None), tmp_path)

    assert figures["exit_status"] is None
    assert figures["recovery_seconds"] is not None
    assert figures["attacker"]["401"] > 0
    assert figures["victim"]["enqueue 200"] > 0
    assert figures["victim"]["poll 200"] > 0
    assert figures["peak_mib"] > 10
    assert figures["descriptors"] > 10
    assert row("polls", figures)[0] == "polls"
