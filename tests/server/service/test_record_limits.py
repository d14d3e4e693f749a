"""What a tenant records without work for a device is bounded per hour."""

import pytest

from server.service.record_limits import HOUR, HourlyLimit


def test_only_so_many_may_fail_within_an_hour() -> None:
    now = [0.0]
    amounts = HourlyLimit(limit=5, clock=lambda: now[0])
    for moment in (0.0, 10.0, 20.0):
        now[0] = moment
        assert amounts.wait("a", 1) is None
        amounts.add("a", 1)
    assert amounts.wait("a", 2) is None
    amounts.add("a", 2)

    now[0] = 30.0
    assert amounts.wait("a", 1) == HOUR - 30.0
    assert amounts.wait("a", 2) == HOUR - 20.0
    assert amounts.wait("b", 1) is None
    now[0] = HOUR
    assert amounts.wait("a", 1) is None
    assert amounts.wait("a", 2) == 10.0


def test_a_single_request_always_may() -> None:
    assert HourlyLimit(limit=1).wait("a", 4) is None


def test_forgotten_tenants_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.record_limits._TENANTS", 10)
    amounts = HourlyLimit(limit=1)
    for number in range(100):
        amounts.add(str(number), 1)

    assert len(amounts._amounts) == 10


def test_amounts_within_a_second_are_one_and_can_be_taken_back() -> None:
    amounts = HourlyLimit(limit=5)
    for _ in range(100):
        amounts.add("a", 5)
        amounts.add("a", -4)

    assert len(amounts._amounts["a"]) < 10
    assert amounts.wait("a", 1) is not None
    amounts.add("a", -99)
    assert amounts.wait("a", 4) is None


def test_what_was_taken_back_leaves_a_first_amount() -> None:
    now = [0.0]
    amounts = HourlyLimit(limit=2, clock=lambda: now[0])
    amounts.add("a", 2)
    now[0] = 10.0
    amounts.add("a", -2)

    assert amounts.wait("a", 3) is None
