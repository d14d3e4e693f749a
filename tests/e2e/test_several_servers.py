"""Real servers on one PostgreSQL and one object store: a client may talk to any of them, and one of them may die."""

import io
import json
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from PIL import Image

from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from tests.contract.test_events import events_of
from tests.e2e.test_object_store import png
from tests.e2e.test_recovery import RESUMED, await_progress
from tests.support.object_store import ObjectStoreServer
from tests.support.openai import SMALL as OPENAI_SMALL
from tests.support.openai import v1_of
from tests.support.server_process import ENDLESS, SMALL, ServerProcess, eventually

Starter = Callable[..., ServerProcess]


@pytest.fixture
def ring(postgres_url: str) -> Iterator[KeyRing]:
    """The keys that the servers share."""
    with opened(postgres_url) as engine:
        yield KeyRing(engine)


@pytest.fixture
def pair(
    start_server: Starter, bucket_url: str, postgres_url: str, ring: KeyRing
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers with a device each, as a client with a key sees them."""
    key = ring.add("mine")
    shared: dict[str, Any] = {
        "files_url": bucket_url,
        "database_url": postgres_url,
        "lease": "10",
        "checkpoint_interval": "0.1",
        "preview_interval": "0.05",
    }
    first, second = (start_server(name=name, **shared).with_key(key) for name in ("first", "second"))
    yield first, second
    first.close()
    second.close()


class Following(threading.Thread):
    """Collects the events of one generation after another from a server's stream."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(daemon=True)
        self.completed: list[dict[str, Any]] = []
        self.progress: list[dict[str, Any]] = []
        self.has_begun = threading.Event()
        self._server = server
        self.start()

    def run(self) -> None:
        """Read until the server ends."""
        url, headers = f"{self._server.url}/api/events", self._server.http.headers
        with suppress(httpx.TransportError), httpx.stream("GET", url, headers=headers, timeout=60) as stream:
            self.has_begun.set()
            for name, data in events_of(stream.iter_lines()):
                told = self.completed if name == "media_generation_completed" else self.progress
                told.append(json.loads(data))

    def of(self, id_: str) -> list[dict[str, Any]]:
        """The progress that was told of a generation."""
        return [each for each in self.progress if each["generation_id"] == id_]


@contextmanager
def follow(server: ServerProcess) -> Iterator[Following]:
    """The events of a server, from now on; at the end it is killed."""
    following = Following(server)
    try:
        assert following.has_begun.wait(60)
        yield following
    finally:
        server.kill()
        following.join(60)


def runner_and_other(pair: tuple[ServerProcess, ServerProcess]) -> tuple[ServerProcess, ServerProcess]:
    """The server whose device is busy, and the other one."""

    def busy() -> list[ServerProcess]:
        return [each for each in pair if any(d["busy"] for d in httpx.get(f"{each.url}/readyz").json()["devices"])]

    runner = eventually(lambda: busy()[:1], pair[0])[0]
    return runner, pair[1 - pair.index(runner)]


def test_any_server_answers_openais_clients(pair: tuple[ServerProcess, ServerProcess]) -> None:
    with v1_of(pair[0]) as one, v1_of(pair[1]) as other:
        id_ = one.create(json=OPENAI_SMALL)["id"]
        eventually(lambda: other.video(id_)["status"] == "completed", pair[1])
        for variant in ("video", "thumbnail", "spritesheet"):
            assert one.content(id_, variant=variant) == other.content(id_, variant=variant)
        part = other.http.get(f"/videos/{id_}/content", headers={"Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")

        again = other.made(f"/videos/{id_}/remix", json={"prompt": OPENAI_SMALL["prompt"]})
        assert one.content(again["id"]) == one.content(id_)
        edit = {"prompt": "In winter", "video": {"id": id_}, "strength": 0.5}
        assert other.made("/videos/edits", json=edit)["size"] == "64x64"
        longer = {"prompt": "On", "video": {"id": id_}, "seconds": "0.5", "image_mode": "first_frame"}
        assert one.made("/videos/extensions", json=longer)["seconds"] == "0.75"
        assert other.listed(order="asc") == one.listed(order="asc")
        assert other.http.delete(f"/videos/{id_}").json()["deleted"]
        assert one.http.get(f"/videos/{id_}").status_code == 404


def test_any_server_answers_for_what_another_one_runs(
    pair: tuple[ServerProcess, ServerProcess], ring: KeyRing, s3: ObjectStoreServer
) -> None:
    running = pair[0].enqueue(**ENDLESS)
    runner, other = runner_and_other(pair)
    with follow(other) as heard:
        eventually(lambda: [each for each in heard.of(running) if each["preview_url"]], other)
        row = eventually(lambda: (row := other.row(running))["preview_url"] and row, other)
        assert row["status"] == "processing"
        assert 0 < row["progress"] < 1
        # it may be replaced while it is read
        shown = eventually(lambda: (got := other.http.get(row["preview_url"])).status_code == 200 and got, other)
        assert shown.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(shown.content)).format == "JPEG"

        assert other.http.delete(f"/queue/{running}").status_code == 200
        runner.wait_until_idle()
        assert other.row(running)["status"] == runner.row(running)["status"] == "cancelled"

        # an upload to one is named to the other, and either may run it
        sent = other.http.post("/uploads", files={"file": ("red.png", b64decode(png().partition(",")[2]))}).json()["id"]
        made = [
            server.enqueue(**changes)
            for server in pair
            for changes in ({}, {"height": 0}, {"input_image": sent, "image_mode": "first_frame"})
        ]
        answer = other.http.post("/videos/generate", json=SMALL, headers={"Idempotency-Key": "once"})
        again = runner.http.post("/videos/generate", json=SMALL, headers={"Idempotency-Key": "once"})
        assert (answer.status_code, again.status_code) == (200, 200)
        videos = [httpx.get(each.json()["video_url"]).content for each in (answer, again)]
        assert videos[0] == videos[1]
        assert videos[0][4:8] == b"ftyp"

        eventually(lambda: len(heard.completed) >= 7, other)
        told = Counter(each["generation_id"] for each in heard.completed)
        assert set(told.values()) == {1}
        assert set(made) < set(told)
        assert running not in told
        assert [each["status"] for each in heard.completed].count("failed") == 2
        for each in heard.completed:
            if each["status"] == "succeeded":
                assert each["url"].startswith(other.url)
                assert httpx.get(each["url"]).content[4:8] == b"ftyp"

        ring.revoke("mine")
        for server in pair:
            eventually(lambda server=server: server.http.get("/queue").status_code == 401, server)


@pytest.mark.heavy
def test_a_killed_servers_work_goes_on_elsewhere_and_ends_once(
    pair: tuple[ServerProcess, ServerProcess], s3: ObjectStoreServer
) -> None:
    undisturbed = pair[0].video(done := pair[0].enqueue(**RESUMED))
    interrupted = pair[0].enqueue(**RESUMED)
    runner, other = runner_and_other(pair)
    with follow(other) as heard:
        reached = await_progress(other, interrupted, 0.5)
        runner.kill()
        before = len(heard.of(interrupted))
        eventually(lambda: [each for each in heard.completed if each["generation_id"] == interrupted], other)
        assert other.video(interrupted) == undisturbed
        # one more, after which nothing of the first can follow
        last = other.enqueue()
        eventually(lambda: [each for each in heard.completed if each["generation_id"] == last], other)

        told = Counter(each["generation_id"] for each in heard.completed)
        assert (told[interrupted], told[last]) == (1, 1)
        assert told[done] <= 1
        assert f"{interrupted} attempt 2: succeeded" in other.log_text()
        # it has not started over
        assert min(each["progress"] for each in heard.of(interrupted)[before:]) > reached / 2
