"""Generations that await an image: queued, but not claimed before it is there."""

from dataclasses import replace

import pytest

from server.core.generation import ENHANCED_PROMPT, Enhancement, Generation, Status
from server.storage.db.records import QueueLimitError, QueueLimits
from server.storage.db.schema import generations
from server.storage.db.statements.awaited_inputs import (
    ABANDONED_SECONDS,
    OTHERS_REWRITES_SECONDS,
    OTHERS_SECONDS,
    AwaitedInput,
    AwaitedRewrite,
)
from tests.contract.store.examples import PARAMS, Clock, new, positions, queued, read
from tests.support.records import StandaloneStore as Store

URL = "https://images.example/ox.png"
OTHER = "https://other.example/"
DIGEST = "a" * 64


async def awaiting(store: Store, count: int = 1, **changes: object) -> list[Generation]:
    return await queued(store, count, **{"awaited_input": URL, **changes})


def complete(generation: Generation) -> Generation:
    return replace(
        generation, params=replace(PARAMS, image=DIGEST, width=32), warnings=("changed",), awaited_input=None
    )


async def test_what_awaits_an_image_is_claimed_only_once_it_is_there(store: Store) -> None:
    (first,) = await awaiting(store)
    (second,) = await queued(store)

    assert (await read(store, first.id)).awaited_input == URL
    next_one = await store.attempts.next(None)
    assert next_one is not None
    assert next_one.id == second.id
    claimed = await store.attempts.claim("me", 60)
    assert claimed is not None
    assert claimed.id == second.id
    assert await store.attempts.claim("me", 60) is None

    assert await store.awaited_inputs.arrived(URL, [complete(first)]) == [first.id]

    now = await read(store, first.id)
    assert replace(now, seq=0) == complete(first)
    with store.engine.connect() as connection:
        assert DIGEST in connection.scalars(generations.select().with_only_columns(generations.c.image)).all()
    claimed = await store.attempts.claim("me", 60)
    assert claimed is not None
    assert claimed.id == first.id


async def test_the_last_image_is_awaited_after_the_first(store: Store) -> None:
    (generation,) = await awaiting(store)
    halfway = replace(complete(generation), awaited_input=OTHER)

    assert await store.awaited_inputs.arrived(URL, [halfway]) == [generation.id]
    assert await store.awaited_inputs.awaited() == [AwaitedInput("", OTHER, "last_image", generation.id)]
    assert await store.attempts.claim("me", 60) is None

    params = replace(PARAMS, image=DIGEST, last_image="b" * 64)
    assert await store.awaited_inputs.arrived(OTHER, [replace(complete(generation), params=params)]) == [generation.id]
    assert (await read(store, generation.id)).params == params
    with store.engine.connect() as connection:
        assert connection.scalars(generations.select().with_only_columns(generations.c.last_image)).all() == ["b" * 64]
    assert await store.attempts.claim("me", 60) is not None


async def test_they_are_found_in_their_order_with_what_they_await(store: Store) -> None:
    (first,) = await awaiting(store)
    await queued(store)
    (second,) = await awaiting(store, tenant="you", awaited_input=OTHER)

    assert await store.awaited_inputs.awaited() == [
        AwaitedInput("", URL, "image", first.id),
        AwaitedInput("you", OTHER, "image", second.id),
    ]
    for url, expected in ((URL, first), (OTHER, second)):
        found = await store.awaited_inputs.awaiting(url, [second.id, first.id, "none"])
        assert [each.id for each in found] == [expected.id]


async def test_their_places_are_behind_all_that_may_be_claimed(store: Store) -> None:
    await awaiting(store, tenant="a")
    await queued(store, 2, tenant="b")
    await awaiting(store, tenant="b")
    await queued(store, 1, tenant="a")
    await queued(store, 1, tenant="c", model="other")

    for holding in ([None], ["other"]):
        assert [seq for _, seq in sorted((await positions(store, "abc", holding)).items())][-2:] == [1, 4]


async def test_a_tenant_with_nothing_else_has_a_place(store: Store) -> None:
    (generation,) = await awaiting(store)

    placed = await store.history.get(generation.id, "")

    assert placed is not None
    assert placed.queue_position == 1


async def test_they_count_in_the_limits_of_the_queue(store: Store) -> None:
    await awaiting(store, 2)

    with pytest.raises(QueueLimitError):
        await store.submissions.insert([new()], QueueLimits(2))


async def test_a_cancelled_one_awaits_nothing(store: Store) -> None:
    first, second = await awaiting(store, 2)
    assert await store.submissions.cancel(first.id, "") is not None

    assert [each.generation_id for each in await store.awaited_inputs.awaited()] == [second.id]
    assert await store.awaited_inputs.awaiting(URL, [first.id]) == []
    assert await store.awaited_inputs.arrived(URL, [complete(first), complete(second)]) == [second.id]
    assert await store.awaited_inputs.failed("", URL, [first.id], "no") == []
    assert (await read(store, first.id)).status is Status.CANCELLED
    assert await store.awaited_inputs.arrived(URL, [complete(second)]) == []


async def test_failures_are_numbered_like_other_completions(store: Store, clock: Clock) -> None:
    first, second, third = await awaiting(store, 3, tenant="me")
    await store.submissions.cancel(second.id, "me")
    clock.now += 5

    failed = await store.awaited_inputs.failed("me", URL, [third.id, second.id, first.id], "input_image is gone.")

    assert [(each.id, each.event_number, each.error_message) for each in failed] == [
        (first.id, 1, "input_image is gone."),
        (third.id, 2, "input_image is gone."),
    ]
    assert {each.status for each in failed} == {Status.FAILED}
    assert {each.completed_at for each in failed} == {clock.now}
    assert await store.attempts.claim("me", 60) is None
    assert await store.awaited_inputs.awaited() == []
    assert [each.id for each in await store.history.completed_after(0, "me")] == [first.id, third.id]


async def test_sync_ones_are_cancelled_at_a_start_as_others_are(store: Store) -> None:
    (generation,) = await awaiting(store, origin="sync", accepted_by="me")

    assert await store.submissions.cancel_waiting_sync() == 1
    assert (await read(store, generation.id)).status is Status.CANCELLED


async def test_a_server_that_is_late_changes_nothing(store: Store, rival: Store) -> None:
    (generation,) = await awaiting(store)
    (late,) = await rival.awaited_inputs.awaiting(URL, [generation.id])
    await store.awaited_inputs.arrived(URL, [replace(complete(generation), awaited_input=OTHER)])
    halfway = await read(store, generation.id)

    wrong = replace(PARAMS, image="c" * 64)
    assert await rival.awaited_inputs.arrived(URL, [replace(complete(late), params=wrong)]) == []
    assert await rival.awaited_inputs.failed("", URL, [generation.id], "no") == []
    assert await rival.awaited_inputs.awaiting(URL, [generation.id]) == []
    assert await read(store, generation.id) == halfway


async def test_what_another_server_accepted_is_left_to_it_for_a_while(store: Store, clock: Clock) -> None:
    own, other = [(await awaiting(store, accepted_by=name))[0] for name in ("me", "you")]

    def found(awaited: list[AwaitedInput]) -> list[str]:
        return [each.generation_id for each in awaited]

    expected = [own.id] if store.is_shared else [own.id, other.id]
    assert found(await store.awaited_inputs.awaited()) == expected
    clock.now += OTHERS_SECONDS + 1
    assert found(await store.awaited_inputs.awaited()) == [own.id, other.id]


async def test_a_rewritten_prompt_is_awaited_after_the_inputs(store: Store) -> None:
    enhancement = Enhancement("request", 2**53 - 1)
    (generation,) = await awaiting(store, enhancement=enhancement)
    assert await store.awaited_inputs.awaiting_rewrite() == []

    halfway = replace(complete(generation), awaited_input=ENHANCED_PROMPT)
    assert await store.awaited_inputs.arrived(URL, [halfway]) == [generation.id]
    assert await store.awaited_inputs.awaited() == []
    assert await store.awaited_inputs.awaiting_rewrite() == [AwaitedRewrite("", "request", generation.id)]
    assert await store.attempts.claim("me", 60) is None
    (waiting,) = await store.awaited_inputs.awaiting(ENHANCED_PROMPT, [generation.id])
    assert waiting.enhancement == enhancement

    params = replace(PARAMS, image=DIGEST, prompt="湖边的牛，清晨")
    done = replace(enhancement, prompt=params.prompt, model="qwen", seconds=1.5)
    rewritten = replace(waiting, params=params, enhancement=done, awaited_input=None)
    assert await store.awaited_inputs.arrived(ENHANCED_PROMPT, [rewritten]) == [generation.id]
    # a second one, of another server, comes too late
    late = replace(rewritten, params=PARAMS, enhancement=enhancement)
    assert await store.awaited_inputs.arrived(ENHANCED_PROMPT, [late]) == []

    assert await store.awaited_inputs.awaiting_rewrite() == []
    claimed = await store.attempts.claim("me", 60)
    assert claimed is not None
    assert (claimed.params, claimed.enhancement) == (params, done)


async def test_prompts_of_other_servers_are_left_to_them(store: Store, clock: Clock) -> None:
    enhancement = Enhancement("request", 1)
    (own,) = await awaiting(store, awaited_input=ENHANCED_PROMPT, enhancement=enhancement, accepted_by="me")
    (other,) = await awaiting(store, awaited_input=ENHANCED_PROMPT, enhancement=enhancement, accepted_by="you")

    async def found(*, has_model: bool) -> list[tuple[str, bool]]:
        awaited = await store.awaited_inputs.awaiting_rewrite(has_model=has_model)
        return [(each.generation_id, each.is_ours) for each in awaited]

    everyone = [(own.id, True), (other.id, True)]
    at_first = [(own.id, True)] if store.is_shared else everyone
    assert await found(has_model=True) == at_first
    clock.now += OTHERS_REWRITES_SECONDS + 1
    assert await found(has_model=True) == [(own.id, True), (other.id, not store.is_shared)]
    assert await found(has_model=False) == at_first
    clock.now += ABANDONED_SECONDS
    assert await found(has_model=True) == await found(has_model=False) == everyone


async def test_a_generation_fails_if_its_prompt_cannot_be_rewritten(store: Store) -> None:
    (generation,) = await awaiting(store, awaited_input=ENHANCED_PROMPT, enhancement=Enhancement("request", 1))

    (failed,) = await store.awaited_inputs.failed("", ENHANCED_PROMPT, [generation.id], "no words")

    assert (failed.status, failed.error_message, failed.event_number) == (Status.FAILED, "no words", 1)
    assert await store.awaited_inputs.awaiting_rewrite() == []
