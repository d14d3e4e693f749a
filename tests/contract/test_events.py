"""The format of the event stream: event line, data line and comments; and the replay of recent completions."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx

from tests.contract.model_page import clients
from tests.contract.test_http import LONG
from tests.support.server_process import ENDLESS, MODEL, ServerProcess, needs


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The (event, data) pairs of a stream; checks that each data line follows an event line."""
    previous = ""
    for line in lines:
        if line.startswith("data"):
            assert previous.startswith("event: "), (previous, line)
            assert line.startswith("data: {")
            yield previous.removeprefix("event: "), line.removeprefix("data: ")
        previous = line


def first_events(server: ServerProcess, count: int, headers: dict[str, str]) -> list[tuple[str, str]]:
    found = []
    with server.http.stream("GET", f"{server.url}/api/events", headers=headers) as stream:
        for event in events_of(stream.iter_lines()):
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


def completion_of(server: ServerProcess, id_: str, path: str = "/api/events") -> tuple[dict[str, Any], list[str]]:
    """The completion event of a generation, and the names of all events about it so far."""
    names = []
    with server.http.stream("GET", f"{server.url}{path}") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for name, data in events_of(stream.iter_lines()):
            if f'"generation_id":"{id_}"' in data:
                names.append(name)
                if name == "media_generation_completed":
                    return json.loads(data), names
    raise AssertionError("the stream ended")


def test_mawk_sees_a_completion_that_follows_another(tenant: ServerProcess) -> None:
    shell = next(client.code for client in clients() if client.name == "async_with_sse-minimal-bash")
    program = re.search(r"""awk -v id="\$GEN_ID" '(.*?)'""", shell, re.DOTALL)
    assert program is not None
    before, ours = tenant.enqueue(), tenant.enqueue()
    for id_ in (before, ours):
        tenant.wait_for(id_, "succeeded")
    received = b""
    with tenant.http.stream("GET", f"{tenant.url}/api/events") as stream:
        for chunk in stream.iter_raw():
            received += chunk
            # both events and the comment after each; after that the stream may be silent for a long time
            if received.partition(f'"generation_id":"{ours}"'.encode())[2].count(b"\n\n") >= 2:
                break
    theirs, event, rest = received.partition(
        b'event: media_generation_completed\ndata: {"generation_id":"' + ours.encode()
    )
    assert before.encode() in theirs

    # with small events such as progress in between, mawk's blocks end at any position
    for news in range(0, 42, 6):
        pieces = [theirs, *[b": " + b" " * 236 + b"\n\n"] * news, event + rest]
        assert exits_after([needs("mawk"), "-v", f"id={ours}", program[1]], pieces), news


def exits_after(command: list[str], pieces: list[bytes]) -> bool:
    """Whether a program exits after it has read these pieces, while the stream is still open."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as program:
        assert program.stdin is not None
        with suppress(BrokenPipeError):
            for piece in pieces:
                program.stdin.write(piece)
                program.stdin.flush()
                time.sleep(0.002)
        try:
            return program.wait(10) == 0
        except subprocess.TimeoutExpired:
            program.kill()
            return False


def test_the_stream_reports_progress_and_completion(server: ServerProcess) -> None:
    long = server.enqueue(**{**LONG, "num_inference_steps": 10})
    event, names = completion_of(server, long)

    row = server.row(long)
    assert set(event) == {"generation_id", "status", "media_type", "model", "url"}
    assert (event["status"], event["media_type"], event["model"]) == ("succeeded", "video", MODEL)
    assert httpx.get(event["url"]).content == httpx.get(row["result_url"]).content
    assert set(names[:-1]) == {"media_generation_progress"}
    assert len(names) > 5


def test_a_failure_is_an_event_and_a_cancellation_is_not(tenant: ServerProcess) -> None:
    server = tenant
    cancelled = server.enqueue(**ENDLESS)
    server.http.delete(f"/queue/{cancelled}")
    failed = server.enqueue(height=0)

    ((name, data),) = first_events(server, 1, headers={})

    assert name == "media_generation_completed"
    assert json.loads(data) == {
        "generation_id": failed,
        "status": "failed",
        "media_type": "video",
        "error": "height must be an integer between 1 and 720",
    }


def test_a_late_subscriber_still_gets_a_recent_completion(server: ServerProcess) -> None:
    id_ = server.enqueue()
    server.wait_for(id_, "succeeded")

    event, names = completion_of(server, id_, "/events")

    assert event["generation_id"] == id_
    assert names == ["media_generation_completed"]


def test_completions_are_compact_and_padded_for_mawk(server: ServerProcess) -> None:
    id_ = server.enqueue(height=0)
    with server.http.stream("GET", f"{server.url}/api/events") as stream:
        raw = ""
        for chunk in stream.iter_text():
            raw += chunk
            if id_ in raw and len(raw) - raw.index(id_) > 4150:
                break

    block = raw[raw.rindex("event: ", 0, raw.index(id_)) :]
    event, data, number, blank, comment = block.split("\n")[:5]
    assert event == "event: media_generation_completed"
    assert data.startswith(f'data: {{"generation_id":"{id_}","status":"failed",')
    assert re.fullmatch("id: [1-9][0-9]*", number)
    assert blank == ""
    assert comment.startswith(":")
    assert len(comment) >= 4096


def ids_after(server: ServerProcess, last: str, count: int) -> list[tuple[str, str]]:
    """The id and generation of the next completions after an id, as a client sees them that connects again."""
    found: list[tuple[str, str]] = []
    with server.http.stream("GET", f"{server.url}/api/events", headers={"Last-Event-ID": last}) as stream:
        generation = ""
        for line in stream.iter_lines():
            if line.startswith("data: ") and '"error"' in line:
                generation = json.loads(line.removeprefix("data: "))["generation_id"]
            elif line.startswith("id: ") and generation:
                found.append((line.removeprefix("id: "), generation))
                generation = ""
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


def test_a_client_that_connects_again_misses_nothing_and_gets_nothing_twice(tenant: ServerProcess) -> None:
    made = [tenant.enqueue(height=0) for _ in range(6)]
    (first, _), *others = everything = ids_after(tenant, "0", 6)
    assert [generation for _, generation in everything] == made
    assert ids_after(tenant, first, 5) == others
    last = others[-1][0]

    between = [tenant.enqueue(height=0) for _ in range(3)]
    assert [generation for _, generation in ids_after(tenant, last, 3)] == between


def test_recorded_completions_are_sent_together_with_one_padding(tenant: ServerProcess) -> None:
    made = [tenant.enqueue(height=0) for _ in range(50)]
    received = ""
    with tenant.http.stream("GET", f"{tenant.url}/api/events", headers={"Last-Event-ID": "0"}) as stream:
        for chunk in stream.iter_text():
            received += chunk
            if made[-1] in received and received.endswith(" \n\n"):
                break

    assert [received.count(f'"generation_id":"{id_}"') for id_ in made] == [1] * 50
    assert received.count(" " * 4096) == 2


def test_an_idle_stream_is_kept_open_by_comments(tenant: ServerProcess) -> None:
    with tenant.http.stream("GET", f"{tenant.url}/api/events", timeout=20) as stream:
        first = next(line for line in stream.iter_lines() if line and not line.startswith("id:"))

    assert first.startswith(":")
