"""A page of another site, open in the browser of somebody who may use the server, gets nothing done there."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.browser import chromium
from tests.support.server_process import MODEL, ServerProcess

BODY = json.dumps({"model": MODEL, "prompt": "from another site", "height": 64, "width": 64, "num_frames": 5})

BY_FETCH = """async ([url, type, body]) => {
  const mode = type === "text/plain" ? "no-cors" : "cors";
  const said = {method: "POST", mode, headers: {"Content-Type": type}, body};
  try { return (await fetch(url, said)).type } catch (error) { return "refused" }
}"""
BY_FORM = """([url, body]) => {
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: "text/plain", target: "frame"});
  // a text/plain form sends NAME=VALUE: JSON, if what stands before the sign is a string of it
  form.append(Object.assign(document.createElement("input"), {name: body.slice(0, -1) + ', "other": "', value: '"}'}));
  document.body.append(Object.assign(document.createElement("iframe"), {name: "frame"}), form);
  form.submit();
}"""
READ = """async url => { try { return (await fetch(url)).status } catch (error) { return "refused" } }"""


class Page(BaseHTTPRequestHandler):
    """A page with nothing on it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title>")

    def log_message(self, *_: object) -> None:
        """Nobody needs to know."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another site, on this machine: what is farther off, Chromium keeps from this machine by itself."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://localhost:{site.server_port}/"
        site.shutdown()
        thread.join()


def test_another_sites_page_gets_nothing_done(server: ServerProcess, elsewhere: str) -> None:
    queue = f"{server.url}/api/ai/queue"
    before = server.http.get("/generations").json()["total_entries"]
    answers: list[tuple[str, int]] = []

    with chromium() as browser:
        context = browser.new_context()
        context.on("response", lambda answer: answers.append((answer.request.method, answer.status)))
        evil = context.new_page()
        evil.goto(elsewhere)

        assert evil.evaluate(BY_FETCH, [queue, "application/json", BODY]) == "refused"
        assert evil.evaluate(BY_FETCH, [queue, "text/plain", BODY]) == "opaque"
        assert evil.evaluate(BY_FETCH, [f"{server.url}/api/ai/models/{MODEL}/deactivate", "text/plain", ""]) == "opaque"
        with evil.expect_response(queue) as sent:
            evil.evaluate(BY_FORM, [queue, BODY])
        assert sent.value.status == 400
        assert evil.evaluate(READ, f"{server.url}/api/ai/generations") == "refused"

    assert server.http.get("/generations").json()["total_entries"] == before
    # each of its writes was answered so, or not sent at all
    assert {status for method, status in answers if method == "POST"} == {400}


def test_a_name_that_was_made_to_stand_for_this_machine_is_refused(server: ServerProcess) -> None:
    answer = server.http.get("/generations", headers={"Host": f"evil.example:{server.url.rpartition(':')[2]}"})

    assert answer.status_code == 400
    assert "allowed_hosts" in answer.json()["error"]["detail"]
