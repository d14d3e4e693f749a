"""Images that a request names by their URLs: fetched after it is recorded, and before it is claimed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.models.catalogue import DEFAULT_MODEL
from server.core.errors import InvalidParamsError, QueueFullError
from server.core.generation import Generation, Origin, Status
from server.media.fetch.download import Downloader
from server.media.fetch.exchange import TemporaryError
from server.media.limits import AUDIO_FORMATS
from server.service.awaiting import input_fetcher as module
from server.service.awaiting import work
from server.service.requests.inputs import LAST_IMAGES
from server.storage.files.inputs import AUDIO_SUFFIX, VIDEO_SUFFIX, input_key
from tests.contract.test_image_input import drawn, encoded
from tests.server.conftest import Inside, build, eventually, working
from tests.support.clips import clip
from tests.support.image_host import PUBLIC, ImageHost, Internet, content, held, image_host, status
from tests.support.models.serving import TI2V
from tests.support.sound import tone

URL = "http://images.example/ox.png"
A14B = "wan-ai-wan2-2-i2v-a14b-diffusers"
NO_SIZE: dict[str, Any] = {"width": None, "height": None}


@pytest.fixture
def host() -> Iterator[ImageHost]:
    with image_host() as host:
        host.answers["/ox.png"] = content(encoded(drawn((60, 30))))
        yield host


@asynccontextmanager
async def running(folder: Path, host: ImageHost, **settings: Any) -> AsyncIterator[Inside]:
    """The parts of a server that reaches the host, running."""
    internet = Internet({PUBLIC: host.port}, {"images.example": [[PUBLIC]]})
    inside = build(folder, downloader=Downloader(internet.resolve, internet), **settings)
    async with working(inside):
        yield inside


@pytest.fixture
async def inside(tmp_path: Path, host: ImageHost) -> AsyncIterator[Inside]:
    async with running(tmp_path / "data", host) as inside:
        yield inside


async def enqueue(inside: Inside, url: Any = URL, count: int = 1, **changes: Any) -> list[Generation]:
    return await inside.enqueue(count, **{"model": TI2V, "input_image": url, **changes})


async def until_asked(host: ImageHost) -> None:
    await eventually(lambda: host.paths)


async def test_the_image_is_fetched_before_the_claim_and_decides_the_size(inside: Inside, host: ImageHost) -> None:
    host.answers["/ox.png"] = held(host, host.answers["/ox.png"])
    (recorded,) = await enqueue(inside, **NO_SIZE)
    await until_asked(host)

    placed = await inside.service.get("", recorded.id)
    assert (placed.generation.status, placed.queue_position) == (Status.QUEUED, 1)
    assert placed.generation.parameters["input_image"] == URL
    assert inside.engine.runs == []
    # others do not wait for it
    (other,) = await inside.enqueue()
    await inside.until(other, Status.SUCCEEDED)
    host.may_go_on.set()

    done = await inside.until(recorded)

    assert done.status is Status.SUCCEEDED, done.error_message
    assert done.params is not None
    assert done.params.image is not None
    assert done.params.width == 2 * done.params.height
    assert inside.engine.runs[-1].image is not None
    assert done.awaited_input is None


async def test_sizes_are_those_of_a_request_that_brings_the_image(
    inside: Inside, host: ImageHost, tmp_path: Path
) -> None:
    path = tmp_path / "ox.png"
    await asyncio.to_thread(path.write_bytes, encoded(drawn((60, 30))))
    cases: list[dict[str, Any]] = [
        NO_SIZE,
        {"width": 60, "height": None},
        {"width": None, "height": 60},
        {"width": 60, "height": 60},
        {**NO_SIZE, "aspect_ratio": "1:1"},
        {**NO_SIZE, "resolution": "480P"},
        # so long that nothing else of the request is kept
        {"width": 60, "height": None, "target_repo": "\U0001f402" * 1024, "target_directory": "\U0001f402" * 1024},
    ]
    for case in cases:
        (by_url,) = await enqueue(inside, **case)
        body = {"model": TI2V, "prompt": "an ox", "num_frames": 5, "num_inference_steps": 2, **case}
        (brought,) = await inside.service.submit(
            "", {**body, "input_image": "sha256:0"}, Origin.QUEUE, inputs={"input_image": path}
        )
        found = (await inside.until(by_url)).params
        assert found is not None
        assert brought.params is not None
        assert (found.width, found.height, found.image) == (
            brought.params.width,
            brought.params.height,
            brought.params.image,
        ), case


async def test_a_video_is_fetched_and_decides_size_and_length(inside: Inside, host: ImageHost) -> None:
    host.answers["/ox.webm"] = content(clip(60, 30, 40, 20, "ox.webm"))
    url = URL.replace("png", "webm")
    (recorded,) = await enqueue(inside, None, model=DEFAULT_MODEL, input_video=url, num_frames=81, **NO_SIZE)

    done = await inside.until(recorded, Status.SUCCEEDED)

    assert dict(host.seen)["/ox.webm"]["accept"] == "video/*"
    assert done.params is not None
    assert done.params.width == pytest.approx(2 * done.params.height, rel=0.01)
    assert done.params.num_frames == 32
    assert done.warnings == ("input_video has only 32 frames at 16 a second: the video has as many.",)
    assert inside.engine.runs[-1].video == input_key("", str(done.params.video), VIDEO_SUFFIX)
    assert (recorded.parameters["input_video"], done.awaited_input) == (url, None)


@pytest.mark.parametrize("path", ["/tone.wav", "/ox.png"])
async def test_a_sound_is_fetched_before_the_image(inside: Inside, host: ImageHost, path: str) -> None:
    host.answers["/tone.wav"] = content(tone(1.0))
    (recorded,) = await enqueue(inside, **NO_SIZE, audio_url=f"http://images.example{path}")
    assert recorded.parameters["input_audio"] == f"http://images.example{path}"

    if path == "/ox.png":
        failed = await inside.until(recorded, Status.FAILED)
        assert failed.error_message == f"input_audio must be {AUDIO_FORMATS}."
        return
    done = await inside.until(recorded, Status.SUCCEEDED)
    assert host.paths == ["/tone.wav", "/ox.png"]
    assert dict(host.seen)["/tone.wav"]["accept"] == "audio/*"
    assert done.params is not None
    assert done.params.width == 2 * done.params.height
    run = inside.engine.runs[-1]
    assert (run.audio, run.image) == (
        input_key("", str(done.params.audio), AUDIO_SUFFIX),
        input_key("", str(done.params.image)),
    )


async def test_a_sound_alone_is_fetched(inside: Inside, host: ImageHost) -> None:
    host.answers["/tone.wav"] = content(tone(1.0))
    (recorded,) = await inside.enqueue(input_audio="http://images.example/tone.wav", num_frames=81)

    done = await inside.until(recorded, Status.SUCCEEDED)
    assert done.params is not None
    assert inside.engine.runs[-1].audio == input_key("", str(done.params.audio), AUDIO_SUFFIX)
    assert done.warnings == ("input_audio has 1.0 seconds and the video 5.1: silence follows it.",)


async def test_the_last_image_of_an_extension_is_fetched_as_such(inside: Inside, host: ImageHost) -> None:
    (made,) = await inside.enqueue(model=A14B, input_image=URL)
    await inside.until(made, Status.SUCCEEDED)
    body = {"model": A14B, "input_image": None, "extend_from": made.id, "end_image_url": URL}
    (recorded,) = await inside.enqueue(**body)

    done = await inside.until(recorded, Status.SUCCEEDED)

    assert done.params is not None
    assert done.params.image is None
    assert None not in (done.params.last_image, done.params.extends)
    run = inside.engine.runs[-1]
    assert (run.image, run.last_image is None, run.extends is None) == (None, False, False)


async def test_a_url_without_a_video_is_told(inside: Inside) -> None:
    (recorded,) = await enqueue(inside, None, model=DEFAULT_MODEL, input_video=URL, **NO_SIZE)

    done = await inside.until(recorded, Status.FAILED)

    assert done.error_message == "input_video must be an MP4, MOV, WebM or Matroska file."


@pytest.mark.parametrize("name", LAST_IMAGES)
async def test_both_images_are_fetched_one_after_the_other(inside: Inside, host: ImageHost, name: str) -> None:
    host.answers["/shore.png"] = content(encoded(drawn((40, 40), seed=1)))
    last = URL.replace("ox", "shore")

    (recorded,) = await enqueue(inside, model=A14B, **NO_SIZE, **{name: last})
    assert recorded.parameters["end_image_url"] == last
    done = await inside.until(recorded, Status.SUCCEEDED)

    assert host.paths == ["/ox.png", "/shore.png"]
    assert done.params is not None
    assert done.params.width == 2 * done.params.height
    run = inside.engine.runs[-1]
    assert run.image is not None
    assert run.image.endswith(f"{done.params.image}.png")
    assert run.last_image is not None
    assert run.last_image.endswith(f"{done.params.last_image}.png")
    assert done.params.image != done.params.last_image


async def test_a_fault_names_the_image_that_has_it(inside: Inside, host: ImageHost) -> None:
    host.answers["/shore.png"] = content(b"no image")

    (recorded,) = await enqueue(inside, model=A14B, end_image_url=URL.replace("ox", "shore"))
    done = await inside.until(recorded, Status.FAILED)

    assert done.error_message == "end_image_url must be a JPEG, PNG, WebP, BMP or GIF file."


async def test_the_records_are_looked_at_only_for_what_awaits_an_image(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    awaited = inside.store.awaited_inputs.awaited

    async def look() -> Any:
        looks.append(None)
        return await awaited()

    monkeypatch.setattr(inside.store.awaited_inputs, "awaited", look)
    (recorded,) = await enqueue(inside)
    await inside.until(recorded)
    assert looks
    looks.clear()

    for generation in await inside.enqueue(2):
        await inside.until(generation)
    assert looks == []


async def test_several_videos_share_one_fetch(inside: Inside, host: ImageHost) -> None:
    recorded = await enqueue(inside, count=3)

    ended = [await inside.until(each) for each in recorded]

    assert [each.status for each in ended] == [Status.SUCCEEDED] * 3
    assert len({each.params.seed for each in ended if each.params}) == 3
    assert host.paths == ["/ox.png"]


async def test_what_is_fetched_but_no_image_fails_with_the_sentence(inside: Inside, host: ImageHost) -> None:
    host.answers["/page"] = content(b"<html>")
    (recorded,) = await enqueue(inside, "http://images.example/page")

    failed = await inside.until(recorded)

    assert failed.status is Status.FAILED
    assert failed.error_message == "input_image must be a JPEG, PNG, WebP, BMP or GIF file."
    assert (failed.attempt, failed.event_number) == (0, 1)
    await eventually(lambda: [each.generation.id for each in inside.events] == [failed.id])
    assert inside.engine.runs == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1/ox.png", "http://169.254.169.254/"])
async def test_what_is_never_fetched_is_refused_at_once(url: str, inside: Inside) -> None:
    (failed,) = await enqueue(inside, url)
    assert failed.status is Status.FAILED
    assert str(failed.error_message).startswith("input_image must be a URL")

    with pytest.raises(InvalidParamsError, match="input_image must be a URL"):
        await enqueue(inside, url, origin=Origin.SYNC)


async def test_other_faults_are_told_at_once(inside: Inside, host: ImageHost) -> None:
    (failed,) = await enqueue(inside, num_frames=1000)

    assert "num_frames" in str(failed.error_message)
    assert host.paths == []


async def test_urls_may_be_turned_off_also_for_what_waits(tmp_path: Path, host: ImageHost) -> None:
    stopped = build(tmp_path / "data")
    (waiting,) = await stopped.enqueue(model=TI2V, input_image=URL)
    stopped.store.close()

    async with running(tmp_path / "data", host, fetch_urls="off") as inside:
        (refused,) = await enqueue(inside)
        failed = await inside.until(waiting)

    sentence = "input_image must be the file itself, in base64 or as a data URL: this server does not fetch URLs."
    assert refused.error_message == failed.error_message == sentence
    assert host.paths == []


async def test_what_was_recorded_before_a_restart_is_fetched_after_it(tmp_path: Path, host: ImageHost) -> None:
    stopped = build(tmp_path / "data")
    (waiting,) = await stopped.enqueue(model=TI2V, input_image=URL)
    stopped.store.close()

    async with running(tmp_path / "data", host) as inside:
        done = await inside.until(waiting)

    assert done.status is Status.SUCCEEDED, done.error_message


async def test_a_stop_leaves_what_is_being_fetched_for_the_next_start(tmp_path: Path, host: ImageHost) -> None:
    whole = host.answers["/ox.png"]
    host.answers["/ox.png"] = held(host, whole)
    async with running(tmp_path / "data", host) as inside:
        (waiting,) = await enqueue(inside)
        await until_asked(host)
    host.answers["/ox.png"] = whole

    async with running(tmp_path / "data", host) as inside:
        done = await inside.until(waiting)

    assert done.status is Status.SUCCEEDED, done.error_message


async def test_a_cancelled_one_is_not_fetched_on(inside: Inside, host: ImageHost) -> None:
    host.answers["/ox.png"] = held(host, host.answers["/ox.png"])
    first, second = await enqueue(inside, count=2)
    await until_asked(host)
    fetcher = inside.service._fetcher
    job = fetcher._jobs[first.id]

    await inside.service.cancel("", first.id)
    assert job.task is not None
    assert not job.task.cancelling()
    await inside.service.cancel("", second.id)

    await eventually(lambda: not fetcher._jobs)
    assert job.task.cancelled()
    host.may_go_on.set()
    (third,) = await enqueue(inside)
    assert (await inside.until(third)).status is Status.SUCCEEDED
    assert (await inside.read(first)).status is (await inside.read(second)).status is Status.CANCELLED


async def test_what_may_pass_is_tried_again_a_few_times(
    inside: Inside, host: ImageHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0))
    whole = host.answers["/ox.png"]

    def busy_twice(request: Any) -> None:
        (whole if len(host.paths) == 3 else status(503))(request)

    host.answers |= {"/ox.png": busy_twice, "/busy": status(503), "/none": status(404)}

    (recorded,) = await enqueue(inside)
    assert (await inside.until(recorded)).status is Status.SUCCEEDED
    assert len(host.paths) == 3
    for path, times in (("/busy", 3), ("/none", 1)):
        (recorded,) = await enqueue(inside, f"http://images.example{path}")
        failed = await inside.until(recorded)
        assert "is a URL that answers with HTTP status" in str(failed.error_message)
        assert host.paths.count(path) == times


async def test_few_are_fetched_at_once_and_a_tenant_leaves_room_for_others(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    go_on = asyncio.Event()

    async def wait(url: str, *_: Any) -> None:
        begun.append(url)
        await go_on.wait()
        raise TemporaryError("is over")

    monkeypatch.setattr(module, "RETRY_SECONDS", ())
    monkeypatch.setattr(inside.service._fetcher._downloader, "download", wait)
    for tenant in "abcde":
        for number in range(4):
            body = {"model": TI2V, "prompt": "an ox", "input_image": f"http://{tenant}.example/{number}"}
            await inside.service.submit(tenant, body, Origin.QUEUE)
    await eventually(lambda: len(inside.service._fetcher._jobs) == 20)
    await eventually(lambda: len(begun) == 8)
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(begun) == 8
    assert max(sum(f"//{tenant}." in url for url in begun) for tenant in "abcde") == 2
    go_on.set()
    await eventually(lambda: not inside.service._fetcher._jobs)
    assert len(begun) == 20


async def test_the_queue_is_as_full_as_it_may_be(tmp_path: Path, host: ImageHost) -> None:
    async with running(tmp_path / "data", host, max_queued=2) as inside:
        host.answers["/ox.png"] = held(host, host.answers["/ox.png"])
        await enqueue(inside, count=2)
        with pytest.raises(QueueFullError):
            await enqueue(inside)


async def test_a_repeat_with_the_same_url_is_the_same_request(inside: Inside, host: ImageHost) -> None:
    body = {"model": TI2V, "prompt": "an ox", "num_frames": 5, "num_inference_steps": 2, "input_image": URL}

    first = await inside.service.submit("", body, Origin.QUEUE, "a-key")
    again = await inside.service.submit("", body, Origin.QUEUE, "a-key")

    assert [each.id for each in first] == [each.id for each in again]
    await inside.until(first[0])
    assert host.paths == ["/ox.png"]


async def test_a_disk_that_cannot_be_written_to_fails_nothing(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", ())
    monkeypatch.setattr(work, "LOOK_AGAIN_SECONDS", 0.2)
    (inside.folder / "inputs").rmdir()

    (recorded,) = await enqueue(inside)
    await eventually(lambda: "is fetched again later: The server cannot keep inputs: No such file" in caplog.text)
    assert (await inside.read(recorded)).status is Status.QUEUED
    (inside.folder / "inputs").mkdir()

    assert (await inside.until(recorded)).status is Status.SUCCEEDED


async def test_servers_that_share_their_database_but_not_files_take_neither_urls_nor_uploads(
    tmp_path: Path, postgres_url: str
) -> None:
    inside = build(tmp_path / "data", database_url=postgres_url)

    (failed,) = await enqueue(inside)
    with pytest.raises(InvalidParamsError, match="Uploads are not supported by servers that share their database, but"):
        await inside.service.upload("", tmp_path / "ox.png")

    sentence = "input_image is not supported by servers that share their database, but not files (setting files_url)"
    assert failed.error_message == sentence
    inside.store.close()
