"""Another key's rows, files, previews and events are out of reach, by every route that there is."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.routing import iter_route_contexts

from server.core.settings.settings import Settings
from server.runtime.app import create_app
from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from tests.support.server_process import MODEL, ServerProcess, eventually

Pair = tuple[ServerProcess, ServerProcess]
SIGNED = ("result_url", "thumbnail_url", "spritesheet_url")


@pytest.fixture(params=["key", "admin key"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """One server to its owner's eyes and to a stranger's, who has a key as well, or an admin key."""
    if request.param == "key":
        server, keys = request.getfixturevalue("keyed_server"), request.getfixturevalue("keys")
        given = [next(keys), next(keys)]
    else:
        server = request.getfixturevalue("start_server")(preview_interval="0.05")
        with opened(f"sqlite:///{server.data_dir / 'paddock.db'}") as engine:
            given = [KeyRing(engine).add("owner"), KeyRing(engine).add("stranger", is_admin=True)]
        eventually(lambda: server.http.get("/queue").status_code == 401, server)
    owner, stranger = map(server.with_key, given)
    with closing(owner.http), closing(stranger.http):
        yield owner, stranger


def routes(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Method and path of every route there is, but for those of the page's own files.

    What is made by POST is the caller's own.
    """
    app = create_app(Settings(data_dir=tmp_path, demo=True))
    for route in iter_route_contexts(app.routes):
        yield from ((method, route.path) for method in sorted(route.methods or ()) if method != "POST")


def test_nothing_of_another_key_is_reached_by_any_route(pair: Pair, tmp_path: Path) -> None:
    owner, stranger = pair
    done = owner.enqueue(prompt="the secret of somebody else")
    owner.wait_for(done, "succeeded")
    token = urlsplit(owner.row(done)["result_url"]).path.rpartition("/")[2]
    # who has the address may fetch the file: who has most of it may not
    signed, signature = token.rsplit(".", 2)[0], token.rsplit(".", 2)[1]
    params = Params(id=MODEL, token=f"{signed}.{signature[::-1]}.mp4")
    running = owner.enqueue(num_inference_steps=100, prompt="the secret of somebody else")
    eventually(lambda: owner.row(running).get("preview_url"), owner)
    before = row_of(owner, done)

    asked: dict[str, set[int]] = {}
    for method, path in routes(tmp_path):
        if path.endswith("/events"):
            continue
        for generation in (done, running):
            address = path.format_map(Params(params, generation_id=generation, video_id=generation))
            body = {"favourite": True} if method == "PATCH" else None
            mine = stranger.http.request(method, owner.url + address, json=body)
            asked.setdefault(path, set()).add(mine.status_code)
            assert "secret" not in mine.text, (method, path)
            assert generation not in mine.text, (method, path)
            if any(name in path for name in ("{generation_id}", "{video_id}", "{token}")):
                assert mine.status_code == 404, (method, path)

    # the owner's are all there, and untouched
    assert row_of(owner, done) == before
    assert owner.row(running)["status"] == "processing"
    assert sum("{generation_id}" in path or "{token}" in path for path in asked) >= 8
    for path in ("/api/ai/queue", "/queue", "/api/ai/generations", "/generations"):
        assert asked[path] == {200}
    owner.http.delete(f"/queue/{running}")


def test_no_event_of_another_key_is_told(pair: Pair) -> None:
    owner, stranger = pair

    with stranger.http.stream("GET", f"{owner.url}/api/events") as stream:
        lines = stream.iter_lines()
        theirs = owner.enqueue(prompt="the secret of somebody else")
        owner.wait_for(theirs, "succeeded")
        own = stranger.enqueue()
        told: list[dict[str, Any]] = []
        for line in lines:
            assert theirs not in line
            if line.startswith("data:") and own in line:
                told.append(json.loads(line.removeprefix("data:")))
                if "succeeded" in line or "completed" in line or len(told) > 20:
                    break

    assert told


def row_of(server: ServerProcess, generation: str) -> dict[str, Any]:
    """A row without the addresses of its files, which are signed anew for every look."""
    return {name: value for name, value in server.row(generation).items() if name not in SIGNED}


class Params(dict[str, str]):
    """Values for a path's parameters, with a default for unknown names."""

    def __missing__(self, name: str) -> str:
        return f"no-{name}"
