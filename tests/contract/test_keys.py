"""API keys: strangers stay out, and each key sees its own rows and events only."""

import json
from collections.abc import Iterator

import httpx

from tests.contract.test_events import first_events
from tests.contract.test_http import error_of
from tests.support.server_process import SMALL, ServerProcess


def test_keys_keep_strangers_out_and_tenants_apart(keyed_server: ServerProcess, keys: Iterator[str]) -> None:
    server = keyed_server
    key = next(keys)
    mine, yours, wrong = ({"Authorization": f"Bearer {each}"} for each in (key, next(keys), "wrong"))
    for headers in ({}, wrong, {"Authorization": "Basic bWluZQ=="}, {"Authorization": "Bearer"}):
        reads = (("GET", path) for path in ("/queue", "/models", "/loras"))
        for method, path in (*reads, ("POST", "/queue"), ("POST", "/videos/generate")):
            response = server.http.request(method, path, headers=headers)
            assert error_of(response, 401)["type"] == "unauthenticated"
            assert response.headers["www-authenticate"] == "Bearer"
        assert server.http.get(f"{server.url}/api/events", headers=headers).status_code == 401

    created = server.http.post("/queue", json=SMALL, headers=mine).json()
    id_ = created["generations"][0]["generation_id"]
    seen = server.with_key(key)
    row = seen.wait_for(id_, "succeeded")
    seen.http.close()

    assert httpx.get(row["result_url"]).status_code == 200
    assert server.http.get(f"/queue/{id_}", headers=yours).status_code == 404
    assert server.http.delete(f"/queue/{id_}", headers=yours).status_code == 404
    assert server.http.get("/generations", headers=yours).json()["total_entries"] == 0
    assert server.http.get("/generations", headers=mine).json()["total_entries"] == 1
    assert [json.loads(data)["generation_id"] for _, data in first_events(server, 1, headers=mine)] == [id_]
    # the first that the other hears of is its own, though the stream replays what was before
    other = server.http.post("/queue", json={**SMALL, "height": 0}, headers=yours).json()["generations"][0]
    assert [json.loads(data)["generation_id"] for _, data in first_events(server, 1, headers=yours)] == [
        other["generation_id"]
    ]
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 200
