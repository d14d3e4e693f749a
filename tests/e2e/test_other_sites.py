"""CSRF and DNS rebinding in a real browser: a page of another site cannot use the server."""

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
  const options = {method: "POST", mode, headers: {"Content-Type": type}, body};
  try { return (await fetch(url, options)).type } catch (error) { return "refused" }
}"""
BY_FORM = """([url, body]) => {
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: "text/plain", target: "frame"});
  // a text/plain form sends NAME=VALUE, which is JSON if the equals sign is inside a string
  form.append(Object.assign(document.createElement("input"), {name: body.slice(0, -1) + ', "other": "', value: '"}'}));
  document.body.append(Object.assign(document.createElement("iframe"), {name: "frame"}), form);
  form.submit();
}"""
BY_FIELDS = """([url, body]) => {
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: "multipart/form-data", target: "fields"});
  for (const [name, value] of Object.entries(JSON.parse(body))) {
    form.append(Object.assign(document.createElement("input"), {name, value}));
  }
  document.body.append(Object.assign(document.createElement("iframe"), {name: "fields"}), form);
  form.submit();
}"""
READ = """async url => { try { return (await fetch(url)).status } catch (error) { return "refused" } }"""


class Page(BaseHTTPRequestHandler):
    """Serves an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title>")

    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.fixture
def other_site() -> Iterator[str]:
    """Another site on this machine: Chromium itself blocks requests from remote sites to this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://localhost:{site.server_port}/"
        site.shutdown()
        thread.join()


def test_another_sites_page_can_neither_write_nor_read(server: ServerProcess, other_site: str) -> None:
    queue = f"{server.url}/api/ai/queue"
    before = server.http.get("/generations").json()["total_entries"]
    answers: list[tuple[str, int]] = []

    with chromium() as browser:
        context = browser.new_context()
        context.on("response", lambda answer: answers.append((answer.request.method, answer.status)))
        evil = context.new_page()
        evil.goto(other_site)

        assert evil.evaluate(BY_FETCH, [queue, "application/json", BODY]) == "refused"
        assert evil.evaluate(BY_FETCH, [queue, "text/plain", BODY]) == "opaque"
        assert evil.evaluate(BY_FETCH, [f"{server.url}/api/ai/models/{MODEL}/deactivate", "text/plain", ""]) == "opaque"
        for way in (BY_FORM, BY_FIELDS):
            with evil.expect_response(queue) as sent:
                evil.evaluate(way, [queue, BODY])
            assert sent.value.status == 400
            assert "another site" in sent.value.json()["error"]["detail"]
        assert evil.evaluate(READ, f"{server.url}/api/ai/generations") == "refused"

    assert server.http.get("/generations").json()["total_entries"] == before
    # each write was refused, or not sent at all
    assert {status for method, status in answers if method == "POST"} == {400}


def test_an_unknown_host_name_that_resolves_to_this_machine_is_refused(server: ServerProcess) -> None:
    answer = server.http.get("/generations", headers={"Host": f"evil.example:{server.url.rpartition(':')[2]}"})

    assert answer.status_code == 400
    assert "allowed_hosts" in answer.json()["error"]["detail"]
