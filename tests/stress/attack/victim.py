"""A client with a key and an address of its own, that goes on with its work while another one attacks the server.

It runs in a process of its own: the attacker must not delay it but by way of the server.
"""

import http.client
import json
import multiprocessing
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from tests.stress.attack.held import VICTIM
from tests.support.server_process import SMALL, TERMINAL

ADDRESS = "127.0.0.2"
INTERVAL = 0.05
"""Seconds from one request of a client to its next."""

NEWCOMER_INTERVAL = 0.5
KEPT = 4
"""So many of its generations are left to be made; others are cancelled, so that the queue stays short."""

TIMEOUT = 20.0
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class Seen:
    """What the victim saw: seconds of each request that was answered or timed out, and how many had which answer."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    """By kind and status, or the name of the error."""

    videos: Counter[str] = field(default_factory=Counter)
    """Ended generations by their status, except the cancelled ones."""

    made_at: list[float] = field(default_factory=list)
    """When it saw each of the finished ones, in Unix seconds."""

    def latencies(self, kind: str) -> list[float]:
        """Seconds of each request of a kind, and of those that could not be sent in time because of a slow one.

        The client waits for an answer before it sends again. While it waits, it would have sent a request every
        INTERVAL, and each of these would have waited for the rest of the time.
        """
        return [left for each in self.seconds.get(kind, []) for left in _with_missed(each)]

    def wrong(self) -> dict[str, int]:
        """The answers that should not have been, newcomers' apart."""
        usual = ("200", "newcomer")
        return {what: count for what, count in self.answers.items() if not any(each in what for each in usual)}


def _with_missed(seconds: float) -> Iterator[float]:
    while seconds > 0:
        yield seconds
        seconds -= INTERVAL


class _Client:
    """One connection that is kept, and opened again after an error."""

    def __init__(self, port: int, seen: Seen) -> None:
        self._seen = seen
        self._connection = http.client.HTTPConnection("127.0.0.1", port, TIMEOUT, (ADDRESS, 0))

    def ask(self, kind: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send a request and note how long the answer took; returns it, or nothing after an error."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {VICTIM}", "Content-Type": "application/json"}
        began = time.perf_counter()
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            text, outcome = response.read(), str(response.status)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            text, outcome = b"", type(error).__name__
        if outcome.isdigit() or outcome == TimeoutError.__name__:
            self._seen.seconds.setdefault(kind, []).append(time.perf_counter() - began)
        self._seen.answers[f"{kind} {outcome}"] += 1
        return dict(json.loads(text)) if outcome == "200" else {}

    def close(self) -> None:
        self._connection.close()


def _enqueue(port: int, seen: Seen, stop: Event, ids: "queue.SimpleQueue[str]") -> None:
    client = _Client(port, seen)
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        due = max(due + INTERVAL, time.monotonic())
        for made in client.ask("enqueue", "POST", "/api/ai/queue", SMALL).get("generations", []):
            ids.put(made["generation_id"])
    client.close()


def _follow(port: int, seen: Seen, stop: Event, ids: "queue.SimpleQueue[str]") -> None:
    """Poll, and cancel what is not to be made."""
    client = _Client(port, seen)
    kept: deque[str] = deque()
    while not stop.is_set():
        try:
            newest = ids.get(timeout=1)
        except queue.Empty:
            continue
        polled = kept[0] if kept else newest
        status = client.ask("poll", "GET", f"/api/ai/queue/{polled}").get("status")
        if kept and status in TERMINAL:
            seen.videos[str(status)] += 1
            seen.made_at += [time.time()] if status == "succeeded" else []
            kept.popleft()
        if len(kept) < KEPT:
            kept.append(newest)
        else:
            client.ask("cancel", "DELETE", f"/api/ai/queue/{newest}")
    client.close()


def _arrive(port: int, seen: Seen, stop: Event) -> None:
    """Open a new connection again and again, as a client does that has just come."""
    while not stop.wait(NEWCOMER_INTERVAL):
        client = _Client(port, seen)
        client.ask("newcomer", "GET", "/healthz")
        client.close()


def _live(port: int, stop: Event, report: Connection) -> None:
    seen = Seen()
    ids: queue.SimpleQueue[str] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=_enqueue, args=(port, seen, stop, ids)),
        threading.Thread(target=_follow, args=(port, seen, stop, ids)),
        threading.Thread(target=_arrive, args=(port, seen, stop)),
    ]
    for thread in threads:
        thread.start()
    report.send(None)
    for thread in threads:
        thread.join()
    report.send(seen)


@contextmanager
def living(port: int, results: list[Seen]) -> Iterator[None]:
    """A victim that works until the block ends. What it saw is then added to `results`."""
    stop = _CONTEXT.Event()
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_live, args=(port, stop, theirs), daemon=True)
    process.start()
    # it is there
    ours.recv()
    try:
        yield
    finally:
        stop.set()
        results.append(ours.recv() if ours.poll(3 * TIMEOUT) else Seen(answers=Counter({"the victim hangs": 1})))
        process.join(TIMEOUT)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: p50, p95, p99 and the longest."""
    ordered = sorted(seconds) or [float("inf")]

    def at(percent: int) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1)

    return {"p50": at(50), "p95": at(95), "p99": at(99), "max": round(1000 * ordered[-1], 1)}
