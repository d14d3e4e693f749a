"""Admin keys: while there is one, only they load and unload models for everybody, on each kind of database."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts

from server.core.settings.settings import Settings
from server.runtime.app import create_app
from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from tests.contract.test_http import error_of
from tests.support.server_process import MODEL, ServerProcess, eventually

LIBRARY = {"/generations/marks", "/generations/delete", "/generations/archive"}
OPENAI = {"/v1/videos", "/v1/videos/{video_id}/remix", "/v1/videos/extensions", "/v1/videos/edits"}
OWN = {"/videos/generate", "/queue", "/uploads", "/prompts/enhance", "/estimate", *LIBRARY, *OPENAI}
"""What is posted to these concerns the caller only."""


@pytest.fixture(params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest, start_server: Callable[..., ServerProcess]
) -> Iterator[tuple[ServerProcess, KeyRing]]:
    """A server with the key "set" in its settings, and the keys in its database."""
    settings = {} if request.param == "sqlite" else {"database_url": request.getfixturevalue("postgres_url")}
    server = start_server(api_keys="set", **settings)
    with opened(settings.get("database_url", f"sqlite:///{server.data_dir / 'paddock.db'}")) as engine:
        yield server, KeyRing(engine)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def for_everybody(tmp_path: Path) -> list[str]:
    """The paths that are posted to, but for those that concern the caller only, with an unknown model."""
    app = create_app(Settings(data_dir=tmp_path / "app", demo=True))
    posted = {route.path for route in iter_route_contexts(app.routes) if "POST" in (route.methods or ())}
    return [path.format(id="nope") for path in sorted(posted) if path.removeprefix("/api/ai") not in OWN]


def test_only_admin_keys_load_and_unload_while_there_is_one(
    place: tuple[ServerProcess, KeyRing], tmp_path: Path
) -> None:
    server, ring = place
    plain = ring.add("plain")
    paths = for_everybody(tmp_path)
    assert len(paths) == 4

    def statuses(key: str) -> set[int]:
        """What a key gets where it would do something for everybody: 404, for there is no such model, if it may."""
        return {server.http.post(server.url + path, headers=bearer(key)).status_code for path in paths}

    for key in (plain, "set"):
        eventually(lambda key=key: statuses(key) == {404}, server)

    boss = ring.add("boss", is_admin=True)
    for key in (plain, "set"):
        eventually(lambda key=key: statuses(key) == {403}, server)
        error = error_of(server.http.post(f"/models/{MODEL}/activate", headers=bearer(key)), 403)
        assert error["type"] == "forbidden"
        assert "paddock key add NAME --admin" in error["message"]
        # what else it may do is unchanged
        assert server.http.get(f"/models/{MODEL}", headers=bearer(key)).json()["deployments"][0]["status"] == "inactive"
        assert server.http.post("/queue", json={"model": MODEL, "height": 0}, headers=bearer(key)).status_code == 200
    assert statuses("wrong") == {401}
    assert statuses(boss) == {404}
    loaded = server.http.post(f"/models/{MODEL}/activate", headers=bearer(boss)).json()
    assert loaded["deployments"][0]["status"] == "deploying"
    assert server.http.post(f"/models/{MODEL}/deactivate", headers=bearer(boss)).status_code == 200

    ring.revoke("boss")
    for key in (plain, "set"):
        eventually(lambda key=key: statuses(key) == {404}, server)
    assert statuses(boss) == {401}


def test_the_refusal_is_documented_where_it_can_happen(tmp_path: Path) -> None:
    paths = create_app(Settings(data_dir=tmp_path, demo=True)).openapi()["paths"]

    documented = {
        path for path, methods in paths.items() for method in methods.values() if "403" in method["responses"]
    }

    assert documented == {"/api/ai/models/{id}/activate", "/api/ai/models/{id}/deactivate"}
