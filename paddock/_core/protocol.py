"""Requests to one server, and the reading of its responses."""

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from paddock._core.flows import BufferedResponse
from paddock.errors import InvalidArgumentError, UnexpectedResponseError, api_error

LOCAL = "http://127.0.0.1:8000"
MAX_RESPONSE_BYTES = 64 * 2**20

UPLOAD_SECONDS = 600.0
"""So long the server may decode a video, and others before it."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# a proxy for the world outside cannot reach this machine's own addresses
UNPROXIED: Mapping[str, None] = {f"all://{host}": None for host in _LOOPBACK}

# clients of the hosted API are given the address with this path
_API_PATH = re.compile(r"/api(/ai)?/*$")
_PORTS = {"http": 80, "https": 443}

Response = TypeVar("Response", bound=BaseModel)


class Protocol:
    """Builds requests for one server. The API key is added to requests to the server's own origin only."""

    def __init__(self, url: str | None, api_key: str | None, timeout: float) -> None:
        if not (math.isfinite(timeout) and timeout > 0):
            raise InvalidArgumentError("timeout must be a number of seconds above 0")
        self.url = _base(url or os.environ.get("PADDOCK_URL") or LOCAL)
        self._origin = _origin(httpx.URL(self.url))
        self._timeout = timeout
        self._key = (api_key or os.environ.get("PADDOCK_API_KEY") or "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InvalidArgumentError("api_key must consist of printable ASCII characters")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return httpx.URL(self.url).host in (each.strip("[]") for each in _LOOPBACK)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> httpx.Request:
        """A request to the API, for a path below /api.

        `params` that are None are left out. `silence` is how many seconds may pass without a byte of the response; by
        default the client's time-out.
        """
        url = httpx.URL(f"{self.url}/api{path}")
        if params:
            url = url.copy_merge_params({name: value for name, value in params.items() if value is not None})
        chosen = {"Accept": "application/json", **(headers or {})}
        if body is None:
            return self._request(method, url, chosen, None, silence)
        return self._request(method, url, {**chosen, "Content-Type": "application/json"}, _encode(body), silence)

    def upload(self, path: str, content: bytes) -> httpx.Request:
        """A request whose body is a file. The server answers once it has decoded it."""
        headers = {"Accept": "application/json", "Content-Type": "application/octet-stream"}
        silence = max(self._timeout, UPLOAD_SECONDS)
        return self._request("POST", httpx.URL(f"{self.url}/api{path}"), headers, content, silence)

    def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> httpx.Request:
        """A request for a file, at an address that the server names. It may be on another host."""
        try:
            target = httpx.URL(self.url).join(url)
        except httpx.InvalidURL:
            target = httpx.URL()
        if target.scheme not in _PORTS or not target.host:
            raise UnexpectedResponseError(f"The server names an address that is not of http or https: {url[:200]}")
        return self._request("GET", target, headers or {}, None, None)

    def _request(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None, silence: float | None
    ) -> httpx.Request:
        chosen = {"User-Agent": "paddock-python", **headers}
        if self._key and _origin(url) == self._origin:
            chosen["Authorization"] = f"Bearer {self._key}"
        timeout = httpx.Timeout(self._timeout, read=silence or self._timeout)
        return httpx.Request(method, url, content=content, headers=chosen, extensions={"timeout": timeout.as_dict()})

    def read(self, response: BufferedResponse, kind: type[Response]) -> Response:
        """The body of a response, checked. Raises APIError, or UnexpectedResponseError."""
        self.check(response.status_code, response.headers, response.content)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            raise UnexpectedResponseError(
                f"{self.url} does not answer as a Paddock server does: {where}: {first['msg']}"
            ) from error

    def check(self, status_code: int, headers: Mapping[str, str], content: bytes) -> None:
        """Raise the error of a response, if its status is not 2xx."""
        if httpx.codes.is_redirect(status_code):
            target = headers.get("Location", "nowhere")[:200]
            raise UnexpectedResponseError(f"{self.url} redirects to {target}. Use that server's address instead.")
        if not httpx.codes.is_success(status_code):
            raise api_error(status_code, headers, content)


def segment(text: str) -> str:
    """One segment of a path: an id is never more than that."""
    if not text or text in (".", ".."):
        raise InvalidArgumentError("a generation's id must not be empty")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise InvalidArgumentError("a generation's id must be text that UTF-8 can encode") from error


def _base(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidArgumentError(f"url is not valid: {error}") from error
    if parsed.scheme not in _PORTS or not parsed.host:
        raise InvalidArgumentError(f"url must begin with http:// or https:// and name a host, such as {LOCAL}")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise InvalidArgumentError("url must hold no user name, no query and no fragment; pass the key as api_key")
    return _API_PATH.sub("", url.rstrip("/"))


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme)


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"The parameters cannot be sent as JSON: {error}") from error
