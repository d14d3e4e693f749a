"""Webhooks while the server is killed again and again: no event is lost, and those that come twice have the same id."""

import json
import random
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.server_process import SMALL, ServerProcess, eventually
from tests.support.webhook_host import URL, WebhookHost, webhook_host

KILLS = 6
EVENTS = ["generation.started", "generation.succeeded"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_no_event_is_lost_however_often_the_server_is_killed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    settings = {"webhooks": "all", "lease": "5"}
    if database == "postgresql":
        settings["database_url"] = str(request.getfixturevalue("postgres_url"))
    chance = random.Random(7)
    with webhook_host() as host:
        monkeypatch.setenv("WEBHOOK_HOST_PORT", str(host.port))
        host.status, host.delay = lambda: chance.choice((200, 200, 500)), 0.05
        server = ServerProcess(tmp_path / "data", module="tests.support.webhook_host", **settings)
        try:
            ids = killed_while_it_delivers(server, chance)
            for id_ in ids:
                server.wait_for(id_, "succeeded")
            wanted = {(id_, event) for id_ in ids for event in EVENTS}
            eventually(lambda: wanted <= arrived(host).keys(), server)
            events = arrived(host)
        finally:
            server.close()
    assert events.keys() == wanted
    assert {len(each) for each in events.values()} == {1}
    assert len(host.received) > len(wanted), "some came twice"
    assert "given up" not in server.log_text()
    assert "Traceback" not in server.log_text()


def killed_while_it_delivers(server: ServerProcess, chance: random.Random) -> list[str]:
    """Kill a server at random moments while it generates and delivers. Returns the ids of the generations."""
    ids = []
    server.start()
    for _ in range(KILLS):
        body = {**SMALL, "webhook_url": URL, "webhook_events": EVENTS, "num_generations": 2}
        ids += [each["generation_id"] for each in server.http.post("/queue", json=body).json()["generations"]]
        time.sleep(chance.uniform(0.3, 2.5))
        server.kill()
        server.start()
    return ids


def arrived(host: WebhookHost) -> dict[tuple[str, str], set[str]]:
    """The ids of the events that arrived, by their generations and their types."""
    found = defaultdict[tuple[str, str], set[str]](set)
    for each in [*host.arrived]:
        event = json.loads(each.body)
        found[event["data"]["generation_id"], event["type"]].add(each.id)
    return found
