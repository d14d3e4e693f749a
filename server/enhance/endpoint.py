"""Asks a language model behind an OpenAI-compatible endpoint, within limits of time and size."""

import asyncio
import base64
import json
import ssl
from http import HTTPStatus
from typing import Any

import httpx

from server import __version__
from server.enhance.backend import ModelDownError, Question
from server.enhance.guards import UnfitAnswerError

MAX_ANSWER_BYTES = 65_536
"""Limit of a whole answer, with the JSON around."""

CONNECT_SECONDS = 5.0

_MAX_TOKENS = 2048
"""More than a prompt has, as some models think in words first."""

_SEEDS = 2**31
"""Endpoints take seeds of 32 bits."""

_MAY_PASS = (408, 409, 425, 429, 500, 502, 503, 504)
_REFUSED = (401, 403)


class ChatEndpoint:
    """A model at an address, with the key of that address and the seconds that an answer may take."""

    place = "language model's endpoint"

    def __init__(self, url: str, model: str, key: str | None, seconds: float) -> None:
        self.model = model
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._key = key
        self._seconds = seconds
        # the one for https reads hundreds of certificates, and is made when it is needed
        self._tls: ssl.SSLContext | None = None

    async def start(self) -> None:
        """The endpoint is somebody else's."""

    async def close(self) -> None:
        """Nothing was started for it."""

    async def ask(self, question: Question) -> str:
        """The model's answer. Raises ModelDownError, and UnfitAnswerError for one that is too long."""
        try:
            async with asyncio.timeout(self._seconds):
                content = await self._post(question)
        except (TimeoutError, httpx.ReadTimeout):
            raise ModelDownError(f"does not answer within {self._seconds:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError) as error:
            raise ModelDownError("cannot be reached", may_pass=True) from error
        return _answer_in(content)

    async def _post(self, question: Question) -> bytes:
        headers = {
            # what is compressed could become larger than it may
            "Accept-Encoding": "identity",
            "User-Agent": f"Paddock/{__version__}",
            **({} if self._key is None else {"Authorization": f"Bearer {self._key}"}),
        }
        async with (
            # without proxies of the environment, as with URLs of inputs
            httpx.AsyncClient(
                trust_env=False,
                follow_redirects=False,
                verify=await self._context(),
                timeout=httpx.Timeout(self._seconds, connect=CONNECT_SECONDS),
            ) as client,
            client.stream("POST", self._url, json=self._body(question), headers=headers) as response,
        ):
            _check(response)
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise UnfitAnswerError(f"is longer than {MAX_ANSWER_BYTES} bytes")
            return bytes(content)

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            make = httpx.create_ssl_context if self._url.startswith("https:") else _no_certificates
            self._tls = await asyncio.to_thread(make)
        return self._tls

    def _body(self, question: Question) -> dict[str, Any]:
        # half of a pair, which JSON may have, is no text
        prompt = question.prompt.encode(errors="replace").decode()
        content: Any = prompt
        if question.image is not None:
            data = base64.b64encode(question.image).decode()
            content = [
                {"type": "text", "text": prompt},
                {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
            ]
        return {
            "model": self.model,
            "messages": [{"role": "system", "content": question.system}, {"role": "user", "content": content}],
            "temperature": question.temperature,
            "max_tokens": _MAX_TOKENS,
            "seed": question.seed % _SEEDS,
            "stream": False,
        }


def _no_certificates() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _check(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_redirect:
        raise ModelDownError(f"answers with a redirect (HTTP status {status})")
    if status in _REFUSED:
        raise ModelDownError(f"refuses this server's key (HTTP status {status})")
    if status != HTTPStatus.OK:
        raise ModelDownError(f"answers with HTTP status {status}", may_pass=status in _MAY_PASS)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ModelDownError("answers with compressed content")


def _answer_in(content: bytes) -> str:
    try:
        choice = json.loads(content)["choices"][0]
        answer = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ModelDownError("answers with what is not a chat completion") from error
    if choice.get("finish_reason") == "length":
        raise UnfitAnswerError("is not complete")
    if answer is None:
        raise UnfitAnswerError("is empty")
    if not isinstance(answer, str):
        raise ModelDownError("answers with what is not a chat completion")
    return answer
