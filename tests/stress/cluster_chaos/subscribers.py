"""Subscribers of the servers' events: they connect again whenever the connection ends, as browsers do."""

import json
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx

_PAUSE_SECONDS = 0.3
COMPLETED = "media_generation_completed"


class Subscriber:
    """Counts the completion events of one server, by generation."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = False
        self.seen: Counter[str] = Counter()
        self.repeated: set[str] = set()
        """Generations whose completion came twice within one connection; a new one begins with those of before."""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._is_over:
            with suppress(httpx.HTTPError), httpx.stream("GET", f"{self._url}/api/events", timeout=30) as stream:
                self._read(stream)
            time.sleep(_PAUSE_SECONDS)

    def _read(self, stream: httpx.Response) -> None:
        here: set[str] = set()
        event = ""
        for line in stream.iter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            elif line.startswith("data:") and event == COMPLETED:
                id_ = json.loads(line.removeprefix("data:"))["generation_id"]
                self.seen[id_] += 1
                if id_ in here:
                    self.repeated.add(id_)
                here.add(id_)
            if self._is_over:
                return

    def end(self) -> None:
        """Listen no more."""
        self._is_over = True
