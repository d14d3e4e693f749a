"""How often the queue is counted for its limits, and that they hold where it is not."""

import pytest

from server.storage.db.records import QueueLimitError, QueueLimits
from server.storage.db.statements.queue import limits as counting
from tests.contract.store.examples import new
from tests.support.records import StandaloneStore as Store

PLENTY = 20


@pytest.fixture
def counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The tenants whose waiting generations have been counted, None for all."""
    seen: list[str | None] = []

    def noted(tx: object, tenant: str | None = None) -> int:
        seen.append(tenant)
        return real(tx, tenant)  # type: ignore[arg-type]

    real = counting.count_queued
    monkeypatch.setattr(counting, "count_queued", noted)
    monkeypatch.setattr(counting, "PLENTY", PLENTY)
    return seen


async def test_a_queue_with_much_room_is_counted_now_and_then(
    store: Store, counts: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        await store.submissions.insert([new(tenant="me")], QueueLimits(100))
    assert counts == [None, "me"]

    monkeypatch.setattr(counting, "COUNTED_SECONDS", 0.0)
    await store.submissions.insert([new(tenant="me")], QueueLimits(100))
    assert counts == [None, "me"] * 2


@pytest.mark.parametrize(
    "limits", [QueueLimits(PLENTY - 1), QueueLimits(100, per_tenant=PLENTY - 1), QueueLimits(3 * PLENTY)]
)
async def test_a_queue_with_less_room_is_counted_each_time(
    limits: QueueLimits, store: Store, counts: list[str | None]
) -> None:
    for _ in range(3):
        await store.submissions.insert([new(tenant="me")], limits)

    assert counts == [None, "me"] * 3


async def test_a_request_that_is_larger_than_the_room_is_refused_at_once(
    store: Store, counts: list[str | None]
) -> None:
    await store.submissions.insert([new()], QueueLimits(100))

    with pytest.raises(QueueLimitError):
        await store.submissions.insert([new() for _ in range(100)], QueueLimits(100))
