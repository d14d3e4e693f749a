"""Hostile requests against a server, as bytes on a socket: what it answers, what it tells, and how it is afterwards.

python -m tests.stress.fuzz [--requests 50000] [--seed 0]

Each is drawn from one of the kinds below, most of them with a good key, so that they get as deep as they can. None may
be answered by a server error that is not documented, by a traceback, by a path of the server's or by a key; none of
these may be in its log either; and the server must be as quick afterwards as before.
"""

import json
import random
import socket
import statistics
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.report import show
from tests.support.server_process import MODEL, ServerProcess

KEY = "a-key-that-no-answer-may-hold"
TIMEOUT = 20.0
PATIENCE = 0.25
"""Seconds after which a client takes it that the server waits for more."""

PROBES = 400
CLIENTS = 32
"""How many ask at a time: most of them wait."""

DOCUMENTED = {503}
"""Of server errors: a sync request on a server that stops, which is not asked for here, and a full disk."""

ROUTES = ("/api/ai/queue", "/api/ai/videos/generate", "/queue", "/videos/generate")
READS = (
    "/api/ai/queue",
    "/api/ai/generations",
    "/api/ai/models",
    "/api/ai/models/search",
    "/api/files/x",
    "/api/ai/queue/x",
    "/api/ai/queue/x/preview",
    "/metrics",
    "/readyz",
    "/web/",
    "/openapi.json",
)
NAMES = (
    *("model", "prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale"),
    *("seed", "duration", "aspect_ratio", "response_format", "num_generations", "step_cache", "target_namespace"),
    *("run_fast", "input_image", "generate_audio", "multi_prompt", "__proto__", "\ud800", ""),
)
WORDS = (
    "..",
    "%2e%2e",
    "%00",
    "..%2f",
    "%252e",
    "\\",
    "//",
    ";",
    "etc/passwd",
    "paddock.db",
    "%ff%fe",
    "\u202e",
    "a" * 3000,
)

Dice = random.Random
Kind = Callable[[Dice], bytes]


def value(dice: Dice, depth: int = 0) -> Any:
    """Anything that JSON can hold, and some that it can only nearly."""
    kinds: list[Callable[[], Any]] = [
        lambda: dice.choice((0, -1, 2**31, 2**63, 2**64, 10**400, -(10**30), 1e308, 5e-324, -0.0)),
        lambda: dice.choice((True, False, None)),
        lambda: dice.choice(("", "\0", "\ud83d", "'; DROP TABLE generations;--", "{{7*7}}", "<script>", "x" * 20_000)),
        lambda: "".join(chr(dice.randrange(0x11000)) for _ in range(dice.randrange(40))),
    ]
    if depth < 4:
        kinds.append(lambda: [value(dice, depth + 1) for _ in range(dice.randrange(5))])
        kinds.append(lambda: {dice.choice(NAMES): value(dice, depth + 1) for _ in range(dice.randrange(5))})
    return dice.choice(kinds)()


def body(dice: Dice) -> bytes:
    """A request's body, of parameters that are mostly wrong; it asks for no video that would take long."""
    asked = {"model": MODEL, "prompt": "an ox", "height": 64, "width": 64, "num_frames": 1, "num_inference_steps": 1}
    for _ in range(dice.randrange(1, 6)):
        asked[dice.choice(NAMES)] = value(dice)
    if asked.get("num_inference_steps") == 1 and dice.random() < 0.9:
        asked["num_inference_steps"] = -1
    return json.dumps(asked, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def request(path: str, content: bytes = b"", method: str = "POST", *headers: str, key: bool = True) -> bytes:
    """A request as bytes; its length is right unless the headers say otherwise."""
    named = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if key:
        named.append(f"Authorization: Bearer {KEY}")
    if content and not any(header.lower().startswith(("content-length", "transfer")) for header in headers):
        named.append(f"Content-Length: {len(content)}")
    return "\r\n".join(named).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + content


JSON = "Content-Type: application/json"


def parameters(dice: Dice) -> bytes:
    return request(dice.choice(ROUTES), body(dice), "POST", JSON)


def broken_json(dice: Dice) -> bytes:
    content = bytearray(body(dice))
    for _ in range(dice.randrange(1, 8)):
        at = dice.randrange(len(content))
        content[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(4))
    return request(dice.choice(ROUTES), bytes(content), "POST", JSON)


def deep_json(dice: Dice) -> bytes:
    depth = dice.choice((100, 5_000, 100_000))
    opening, closing = dice.choice((("[", "]"), ('{"prompt":', "}")))
    nested = opening * depth + ("1" if dice.random() < 0.5 else "") + closing * dice.choice((0, depth))
    return request(dice.choice(ROUTES), nested.encode(), "POST", JSON)


def media_types(dice: Dice) -> bytes:
    kind = dice.choice(("text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-7", "", "\x01"))
    return request(dice.choice(ROUTES), body(dice), "POST", f"Content-Type: {kind}")


def paths(dice: Dice) -> bytes:
    parts = [dice.choice(WORDS) for _ in range(dice.randrange(1, 6))]
    path = dice.choice(("/web/", "/api/files/", "/api/ai/queue/", "/", "http://evil.example/")) + "/".join(parts)
    return request(path.replace(" ", "%20"), b"", dice.choice(("GET", "HEAD", "DELETE", "PUT", "OPTIONS")))


def queries(dice: Dice) -> bytes:
    names = ("page", "page_size", "status", "search", "model", "namespace", "media_type", "x")
    asked = "&".join(f"{dice.choice(names)}={dice.choice((*WORDS, '-1', '1e999', '9' * 400, '%'))}" for _ in range(4))
    return request(f"{dice.choice(READS)}?{asked}", b"", "GET")


def smuggled(dice: Dice) -> bytes:
    content = body(dice)
    doubled = (f"Content-Length: {len(content)}", f"Content-Length: {dice.randrange(2 * len(content))}")
    both = ("Transfer-Encoding: chunked", f"Content-Length: {len(content)}")
    odd = ("Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Content-Length: -5", "Content-Length: 1e3")
    headers = dice.choice((doubled, both, (dice.choice(odd),), ("X: a\r\n folded",), ("X\0: y",), ("\ud800: y",)))
    hidden = b"GET /api/ai/generations HTTP/1.1\r\nHost: localhost\r\n\r\n"
    safe = [header.encode("utf-8", "replace").decode() for header in headers]
    return request(dice.choice(ROUTES), content + hidden, "POST", JSON, *safe)


def chunked(dice: Dice) -> bytes:
    sizes = ("5", "0", "ffffffffffffffff", "-1", "zz", "5;ext=" + "a" * 500)
    content = b"".join(f"{dice.choice(sizes)}\r\n".encode() + dice.randbytes(5) + b"\r\n" for _ in range(3))
    return request(dice.choice(ROUTES), content, "POST", JSON, "Transfer-Encoding: chunked")


def headers(dice: Dice) -> bytes:
    odd = (
        *("Host: evil.example", "Host: ", "Authorization: Bearer " + "x" * 5000, "Authorization: Basic \0"),
        *("Range: bytes=0-,1-,2-", "Range: bytes=99999999999999999999-", "Idempotency-Key: " + "k" * 3000),
        *("Origin: null", "Sec-Fetch-Site: cross-site", "X: " + "y" * 60_000, "Cookie: " + "a=b;" * 5000),
    )
    count = dice.choice((1, 2, 300))
    return request(dice.choice(READS), b"", "GET", *(dice.choice(odd[:-2] if count > 2 else odd) for _ in range(count)))


def noise(dice: Dice) -> bytes:
    start = dice.choice((b"", b"GET ", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01"))
    return start + dice.randbytes(dice.randrange(200))


def cut_short(dice: Dice) -> bytes:
    whole = parameters(dice)
    return whole[: dice.randrange(len(whole))]


KINDS: tuple[Kind, ...] = (
    *(parameters, broken_json, deep_json, media_types, paths, queries, smuggled, chunked, headers, noise, cut_short),
)


def send(port: int, content: bytes, dice: Dice) -> bytes:
    """What comes back, until the server closes or TIMEOUT; some clients do not wait for it, or close their half."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection, suppress(OSError):
        connection.sendall(content)
        way = dice.random()
        if way < 0.05:
            return b""
        answer = bytearray()
        connection.settimeout(PATIENCE)
        with suppress(TimeoutError):
            answer += connection.recv(65536)
        # what is not whole is waited for, until the client says that there is no more
        connection.settimeout(TIMEOUT)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
            if len(answer) > 4_000_000:
                break
        return bytes(answer)
    return b""


def fault(answer: bytes, secrets: tuple[bytes, ...]) -> str | None:
    """What is wrong with an answer."""
    if answer.startswith(b"HTTP/1.1 5") and int(answer[9:12]) not in DOCUMENTED:
        return f"status {answer[9:12].decode()}"
    return next((f"{secret!r} in the answer" for secret in (b"Traceback", *secrets) if secret in answer), None)


def probe(server: ServerProcess) -> float:
    """Median seconds of a simple question."""
    taken = []
    with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        for _ in range(PROBES):
            began = time.perf_counter()
            client.get(f"{server.url}/api/ai/models").raise_for_status()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def attack(server: ServerProcess, requests: int, seed: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Send so many; returns how many were answered how, and what was wrong, with what it takes to see it again."""
    secrets = KEY.encode(), str(server.data_dir).encode(), b"site-packages"
    answers: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []

    def one(number: int) -> tuple[int, str, bytes]:
        dice = random.Random(f"{seed} {number}")
        kind = dice.choice(KINDS)
        return number, kind.__name__, send(server.port, kind(dice), dice)

    with ThreadPoolExecutor(CLIENTS) as clients:
        for number, kind, answer in clients.map(one, range(requests)):
            answers[answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/") else "none"] += 1
            if (why := fault(answer, secrets)) is not None:
                faults.append({"kind": kind, "number": number, "why": why})
            if number % 5000 == 4999:
                print(f"{number + 1} of {requests}", file=sys.stderr)
    return answers, faults


def main() -> None:
    """Attack, print a table and one JSON line; ends with status 1 if anything was wrong."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data", api_keys=KEY, max_queued="100000")
        server.start()
        probe(server)
        before = probe(server)
        began = time.monotonic()
        answers, faults = attack(server, options.requests, options.seed)
        seconds = time.monotonic() - began
        after = probe(server)
        log = server.log_text()
        assert server.process is not None
        lives = server.process.poll() is None
        server.stop()
        server.close()
    told = [word for word in ("Traceback", KEY) if word in log]
    figures = {
        "requests": options.requests,
        "seed": options.seed,
        "seconds": round(seconds),
        "answers": dict(answers.most_common()),
        "faults": faults[:20],
        "faults_in_all": len(faults),
        "in_the_log": told,
        "lives": lives,
        "ms_before": round(1000 * before, 2),
        "ms_after": round(1000 * after, 2),
    }
    rows = [
        ("hostile requests", str(options.requests), f"{len(KINDS)} kinds, in {seconds:.0f} s"),
        ("answers", ", ".join(f"{status}: {count}" for status, count in answers.most_common()), "none: not asked for"),
        (
            "faults",
            str(len(faults)),
            "; ".join(f"{each['kind']} {each['number']}: {each['why']}" for each in faults[:5]),
        ),
        ("in the log", ", ".join(told) or "nothing it should not hold", ""),
        ("a question, before → after", f"{1000 * before:.2f} → {1000 * after:.2f} ms", f"ratio {after / before:.2f}"),
    ]
    show("fuzz", rows, figures)
    if faults or told or not lives:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
