"""A tenant's requests that fail at once are bounded per hour."""

import pytest

from server.service.failed_requests import HOUR, FailedRequests


def test_only_so_many_may_fail_within_an_hour() -> None:
    now = [0.0]
    failed = FailedRequests(limit=5, clock=lambda: now[0])
    for moment in (0.0, 10.0, 20.0):
        now[0] = moment
        assert failed.wait("a", 1) is None
        failed.note("a", 1)
    assert failed.wait("a", 2) is None
    failed.note("a", 2)

    now[0] = 30.0
    assert failed.wait("a", 1) == HOUR - 30.0
    assert failed.wait("a", 2) == HOUR - 20.0
    assert failed.wait("b", 1) is None
    now[0] = HOUR
    assert failed.wait("a", 1) is None
    assert failed.wait("a", 2) == 10.0


def test_a_single_request_always_may() -> None:
    assert FailedRequests(limit=1).wait("a", 4) is None


def test_forgotten_tenants_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.failed_requests._TENANTS", 10)
    failed = FailedRequests(limit=1)
    for number in range(100):
        failed.note(str(number), 1)

    assert len(failed._failures) == 10
