"""Prompts that are rewritten before the claim: after inputs, after failures of the records, without a model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.core.errors import QueueFullError, RecordsUnavailableError
from server.core.generation import ENHANCED_PROMPT, Generation, Origin, Status
from server.enhance.styles import BUILT_IN
from server.media.fetch.download import Downloader
from server.service.awaiting import work
from server.storage.db.statements import awaited_inputs
from tests.contract.test_image_input import drawn, encoded
from tests.server.conftest import Inside, StartShared, build, eventually, working
from tests.support.chat_server import MODEL, ChatServer, held, saying, sending
from tests.support.image_host import PUBLIC, Internet, content, image_host
from tests.support.image_host import held as held_image
from tests.support.models.serving import TI2V


@asynccontextmanager
async def running(folder: Path, chat: ChatServer | None, **settings: Any) -> AsyncIterator[Inside]:
    """The parts of a server with this endpoint, running."""
    endpoint = {} if chat is None else {"enhance_url": chat.url, "enhance_model": MODEL}
    inside = build(folder, **endpoint, **settings)
    async with working(inside):
        yield inside


async def enqueue(inside: Inside, count: int = 1, **changes: Any) -> list[Generation]:
    return await inside.enqueue(count, **{"enhance_prompt": True, **changes})


async def test_the_device_gets_the_rewritten_prompt(tmp_path: Path, chat: ChatServer) -> None:
    async with running(tmp_path / "data", chat) as inside:
        (recorded,) = await enqueue(inside)
        assert recorded.awaited_input == ENHANCED_PROMPT
        done = await inside.until(recorded, Status.SUCCEEDED)

        assert done.enhancement is not None
        assert inside.engine.runs[-1].params.prompt == done.enhancement.prompt
        assert done.enhancement.prompt != done.parameters["prompt"]
        assert (done.enhancement.model, done.awaited_input) == (MODEL, None)


async def test_tokens_are_counted_by_the_models_own_tokenizer(tmp_path: Path, chat: ChatServer) -> None:
    # 112 words: too many tokens for the demo's tokenizer only, which has letters for most of them
    chat.answer = saying(" ".join(["A majestic rhinoceros wanders slowly through glittering undergrowth."] * 14))
    async with running(tmp_path / "data", chat, demo=True) as inside:
        (recorded,) = await enqueue(inside)
        done = await inside.until(recorded, Status.SUCCEEDED)

        assert done.warnings[0].startswith("The prompt was not enhanced: the language model's answer has more than the")
    async with running(tmp_path / "other", chat) as inside:
        (recorded,) = await enqueue(inside)
        assert (await inside.until(recorded, Status.SUCCEEDED)).warnings == ()


async def test_an_image_is_fetched_before_the_prompt_is_rewritten(tmp_path: Path, chat: ChatServer) -> None:
    with image_host() as host:
        host.answers["/ox.png"] = held_image(host, content(encoded(drawn((60, 30)))))
        internet = Internet({PUBLIC: host.port}, {"images.example": [[PUBLIC]]})
        async with running(tmp_path / "data", chat, downloader=Downloader(internet.resolve, internet)) as inside:
            (recorded,) = await enqueue(inside, model=TI2V, input_image="http://images.example/ox.png")
            await eventually(lambda: host.paths)
            assert chat.asked == []
            host.may_go_on.set()
            done = await inside.until(recorded, Status.SUCCEEDED)

            assert done.params is not None
            assert done.params.image is not None
            assert "begins with a given image" in chat.asked[0]["messages"][0]["content"]
            assert done.enhancement is not None
            assert done.params.prompt == done.enhancement.prompt


async def test_a_cancelled_one_of_several_leaves_the_others(tmp_path: Path, chat: ChatServer) -> None:
    chat.answer = held(chat)
    async with running(tmp_path / "data", chat) as inside:
        first, second = await enqueue(inside, 2)
        await eventually(lambda: chat.asked)
        await inside.service.cancel("", first.id)
        chat.may_go_on.set()

        assert (await inside.until(second)).status is Status.SUCCEEDED
        cancelled = await inside.read(first)
        assert (cancelled.status, cancelled.enhancement) == (Status.CANCELLED, first.enhancement)
        assert len(chat.asked) == 1


async def test_a_text_that_was_not_recorded_is_not_asked_for_again(
    tmp_path: Path, chat: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "BACKOFF_SECONDS", 0.01)
    async with running(tmp_path / "data", chat) as inside:
        arrived = inside.store.awaited_inputs.arrived
        faults = [RecordsUnavailableError("down", "mend it")] * 2

        async def fails(url: str, complete: list[Generation]) -> list[str]:
            if faults:
                raise faults.pop()
            return await arrived(url, complete)

        monkeypatch.setattr(inside.store.awaited_inputs, "arrived", fails)
        (recorded,) = await enqueue(inside)

        assert (await inside.until(recorded)).status is Status.SUCCEEDED
        assert faults == []
        assert len(chat.asked) == 1


async def test_a_bug_leaves_none_waiting(tmp_path: Path, chat: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "data", chat) as inside:

        async def breaks(_: list[Generation], **__: bool) -> list[Generation]:
            raise KeyError("x")

        monkeypatch.setattr(inside.service.prompts, "of", breaks)
        (recorded,) = await enqueue(inside)

        failed = await inside.until(recorded)
        assert failed.error_message == "The server failed to enhance the prompt. Its log says more."
        await eventually(lambda: [event for event in inside.events if event.generation.status is Status.FAILED])


@pytest.mark.parametrize(("policy", "status"), [("fail", Status.FAILED), ("original", Status.SUCCEEDED)])
async def test_what_was_recorded_before_the_model_was_taken_away(
    tmp_path: Path, chat: ChatServer, policy: str, status: Status
) -> None:
    chat.answer = held(chat)
    async with running(tmp_path / "data", chat) as inside:
        (recorded,) = await enqueue(inside)
    async with running(tmp_path / "data", None, enhance_if_down=policy) as inside:
        done = await inside.until(recorded)

        assert done.status is status
        said = str(done.error_message) + " ".join(done.warnings)
        assert "this server has no language model (settings enhance_url and enhance_model, or enhance_folder)" in said


async def test_a_refused_request_counts_for_none(tmp_path: Path, chat: ChatServer) -> None:
    chat.answer = sending(b"", 404)
    async with running(tmp_path / "data", chat, enhance_per_hour=2) as inside:
        for _ in range(5):
            (failed,) = await enqueue(inside, height=0)
            assert failed.status is Status.FAILED
            assert failed.enhancement is None
        key = "the same request"
        body = {**_body(inside), "enhance_prompt": True}
        first = await inside.service.submit("", body, failed.origin, key)
        for _ in range(5):
            again = await inside.service.submit("", body, failed.origin, key)
            assert [each.id for each in again] == [each.id for each in first]
        (last,) = await enqueue(inside)
        assert replace(last, seq=0).enhancement is not None


def _body(inside: Inside) -> dict[str, Any]:
    return {"model": next(iter(inside.service.catalogue)), "prompt": "An ox", "num_inference_steps": 2}


async def test_a_dead_servers_prompt_is_rewritten_by_another_that_has_a_model(
    start_shared: StartShared, chat: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LOOK_AGAIN_SECONDS", 0.05)
    endpoint = {"enhance_url": chat.url, "enhance_model": MODEL}
    here, there, without = start_shared("here", **endpoint), start_shared("there", **endpoint), start_shared("without")
    for each in (there, without):
        await each.start()
        each.service.start()
    # nothing works here
    (recorded,) = await enqueue(here)
    await asyncio.sleep(0.3)
    assert chat.asked == []

    monkeypatch.setattr(awaited_inputs, "OTHERS_REWRITES_SECONDS", 0.0)
    done = await there.until(recorded, Status.SUCCEEDED)

    assert done.enhancement is not None
    assert done.enhancement.prompt is not None
    assert len(chat.asked) == 1
    for each in (there, without):
        each.service.begin_closing()


@pytest.mark.parametrize("policy", ["fail", "original"])
async def test_a_server_whose_model_is_down_leaves_what_another_one_accepted(
    start_shared: StartShared, chat: ChatServer, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr(work, "LOOK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(awaited_inputs, "OTHERS_REWRITES_SECONDS", 0.0)
    chat.answer = sending(b"", 404)
    endpoint = {"enhance_url": chat.url, "enhance_model": MODEL, "enhance_if_down": policy}
    here, there = start_shared("here", **endpoint), start_shared("there", **endpoint)
    await there.start()
    there.service.start()

    (recorded,) = await enqueue(here)
    await eventually(lambda: len(chat.asked) > 1)
    assert (await there.read(recorded)).awaited_input == ENHANCED_PROMPT

    monkeypatch.setattr(awaited_inputs, "ABANDONED_SECONDS", 0.0)
    done = await there.until(recorded)
    assert done.status is (Status.FAILED if policy == "fail" else Status.SUCCEEDED)
    there.service.begin_closing()


async def test_what_was_left_by_the_only_server_with_a_model_ends(
    start_shared: StartShared, chat: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LOOK_AGAIN_SECONDS", 0.05)
    gone, without = start_shared("gone", enhance_url=chat.url, enhance_model=MODEL), start_shared("without")
    (recorded,) = await enqueue(gone)
    monkeypatch.setattr(awaited_inputs, "ABANDONED_SECONDS", 0.0)
    await without.start()
    without.service.start()

    failed = await without.until(recorded)

    assert "this server has no language model" in str(failed.error_message)
    without.service.begin_closing()


async def test_a_repeated_request_is_answered_at_the_limit_too(tmp_path: Path, chat: ChatServer) -> None:
    async with running(tmp_path / "data", chat, enhance_per_hour=1) as inside:
        body = {**_body(inside), "enhance_prompt": True}
        (first,) = await inside.service.submit("", body, Origin.QUEUE, "again")
        with pytest.raises(QueueFullError):
            await enqueue(inside)

        (same,) = await inside.service.submit("", body, Origin.QUEUE, "again")
        assert same.id == first.id


async def test_a_style_whose_card_was_removed_is_another_one(tmp_path: Path, chat: ChatServer) -> None:
    chat.answer = held(chat)
    async with running(tmp_path / "data", chat) as inside:
        (recorded,) = await enqueue(inside, inspiration=True)
    assert recorded.enhancement is not None
    cards = tmp_path / "styles.toml"
    text = BUILT_IN.read_text(encoding="utf-8")
    cards.write_text(text.replace(f'id = "{recorded.enhancement.style}"', 'id = "another"'), encoding="utf-8")
    chat.may_go_on.set()
    async with running(tmp_path / "data", chat, inspiration_styles=cards) as inside:
        done = await inside.until(recorded, Status.SUCCEEDED)

    assert done.enhancement is not None
    assert done.enhancement.style not in (None, recorded.enhancement.style)
    assert done.enhancement.prompt is not None
