"""A client of any running server, local or hosted: enqueue, follow the events, fetch the file."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipelines.core.files import part_path

Row = dict[str, Any]
_TERMINAL = ("succeeded", "failed", "cancelled")
_RECONNECT_SECONDS = 1.0
# the server writes a comment every 15 s: three missed, and the line is dead
_SILENCE_SECONDS = 50.0


class ClientError(Exception):
    """The server cannot be reached, or refuses; `str()` is a sentence."""


class UnreachableError(ClientError):
    """The server is not there, or is stopping: it may be back."""


class Client:
    """Talks to one server. `url` is its base, without /api."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        # a proxy for the world outside cannot reach this machine's own address
        is_near = urlsplit(self.url).hostname in ("127.0.0.1", "::1", "localhost")
        self._http = httpx.Client(base_url=f"{self.url}/api", headers=headers, timeout=30, trust_env=not is_near)

    def get(self, path: str) -> Any:
        """The JSON at a path below /api."""
        return self._request("GET", path)

    def enqueue(self, body: Row) -> str:
        """Enqueue one generation; returns its id."""
        generations = self._request("POST", "/ai/queue", body)["generations"]
        return str(generations[0]["generation_id"])

    def row(self, generation_id: str) -> Row:
        """A generation as it stands."""
        return dict(self.get(f"/ai/queue/{generation_id}"))

    def cancel(self, generation_id: str) -> None:
        """Cancel a generation."""
        self._request("DELETE", f"/ai/queue/{generation_id}")

    def follow(self, generation_id: str, on_progress: Callable[[Row], None]) -> Row:
        """Wait until a generation is over, telling of its progress; returns its last row.

        A broken stream is taken up again, also across a restart of the server: `on_progress` then hears of the status
        `unreachable` in between.
        """
        while True:
            try:
                with self._http.stream("GET", "/events", timeout=httpx.Timeout(30, read=_SILENCE_SECONDS)) as stream:
                    self._raise_for(stream)
                    if (row := self.row(generation_id))["status"] in _TERMINAL:
                        return row
                    on_progress(row)
                    self._follow(stream, generation_id, on_progress)
                # over, or cancelled, of which no event tells; a stream that only broke off shows it as active
                if (row := self.row(generation_id))["status"] in _TERMINAL:
                    return row
            except (httpx.TransportError, UnreachableError):
                on_progress({"generation_id": generation_id, "status": "unreachable"})
            time.sleep(_RECONNECT_SECONDS)

    def _follow(self, stream: httpx.Response, generation_id: str, on_progress: Callable[[Row], None]) -> None:
        """Tell of progress until the generation is over or the stream ends."""
        for name, data in read_events(stream.iter_lines()):
            if data["generation_id"] != generation_id:
                continue
            if name == "media_generation_completed":
                return
            on_progress(data)

    def download(self, url: str, path: Path) -> None:
        """Fetch a video to `path`, whole or not at all."""
        part = part_path(path)
        try:
            with self._http.stream("GET", url) as response, part.open("wb") as file:
                self._raise_for(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
            part.rename(path)
        except httpx.TransportError as error:
            raise ClientError(f"The video could not be fetched: {error}") from error
        except OSError as error:
            raise ClientError(f"The video could not be written to {path}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def _request(self, method: str, path: str, body: Row | None = None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise UnreachableError(f"No server answers at {self.url}: {error}") from error
        self._raise_for(response)
        return response.json()

    def _raise_for(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:200]
        kind = UnreachableError if response.status_code == httpx.codes.SERVICE_UNAVAILABLE else ClientError
        raise kind(f"The server answered {response.status_code}: {message}")


def read_events(lines: Iterator[str]) -> Iterator[tuple[str, Row]]:
    """The name and the data of each event, of the lines of an event stream."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
