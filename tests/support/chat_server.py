"""A stand-in for a language model's chat endpoint on loopback, which answers in good ways and bad ones."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.stand_in import Quiet, StandIn, serving

MODEL = "stand-in"
KEY = "the-key-of-the-endpoint"

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class ChatServer(StandIn):
    """Answers POST /v1/chat/completions by `answer`. `asked` are the bodies of the questions, in their order."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.answer: Answer = counted(self)
        chat = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                chat.paths.append(self.path)
                chat.headers.append({name.lower(): value for name, value in self.headers.items()})
                chat.asked.append(body)
                chat.answer(self, body)

        super().__init__(Handler)
        self.url = f"http://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[Any]:
        """What the questions had as the user's message."""
        return [body["messages"][-1]["content"] for body in self.asked]

    def settings(self, **changes: str) -> dict[str, str]:
        """The settings of a server that asks this endpoint."""
        own = {"enhance_url": self.url, "enhance_model": MODEL, "enhance_key": KEY, "enhance_per_hour": "1000"}
        return {**own, **changes}

    def reset(self) -> None:
        """As it was at first."""
        self.asked, self.headers, self.paths = [], [], []
        self.answer = counted(self)
        self.may_go_on.clear()


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """An endpoint that runs."""
    with serving(ChatServer()) as chat:
        yield chat


def counted(chat: ChatServer) -> Answer:
    """Another enrichment of the prompt each time, in its language."""

    def answer(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        asked = body["messages"][-1]["content"]
        prompt = asked if isinstance(asked, str) else asked[0]["text"]
        more = (
            "，清晨的薄雾" if any("\u4e00" <= each <= "\u9fff" for each in prompt) else " in soft morning light, take"
        )
        saying(f"{prompt}{more} {len(chat.asked)}.")(request, body)

    return answer


def saying(text: Any, **choice: Any) -> Answer:
    """A chat completion with this text."""
    message = {"role": "assistant", "content": text}
    return sending(
        json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}).encode()
    )


def sending(content: bytes, status: int = 200, **headers: str) -> Answer:
    """A response with this content."""

    def answer(request: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        request.send_response(status)
        for name, value in {"content_length": str(len(content)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def hung_up(request: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """The connection ends without a response."""
    request.connection.close()


def held(chat: ChatServer, then: Answer | None = None) -> Answer:
    """An answer that comes when the endpoint may go on."""
    after = then or chat.answer

    def answer(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        chat.may_go_on.wait(120)
        after(request, body)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """These answers one after the other; the last one stays."""
    rest = list(answers)

    def answer(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        (rest.pop(0) if len(rest) > 1 else rest[0])(request, body)

    return answer
