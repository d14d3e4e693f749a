"""Attacks by what requests contain: searches, fields that are echoed, deep and wide JSON, large heads."""

import asyncio
import json
from random import Random

from tests.stress.attack.wire import Line, Target, for_seconds, many, request
from tests.stress.fuzz import KEY, deep_json
from tests.support.server_process import SMALL

SEARCHES = 64
"""So many searches at a time, at most."""

WORDS = ("ox", "lake", "zebra", "quagga", "o", "by a", "%", "_")
FILLERS = 16
"""So many connections record the rows whose fields are echoed."""

FILL_SHARE = 0.3
"""The share of the time in which they do."""

LISTS = ("/api/ai/queue?status=failed", "/api/ai/generations?page_size=1000", "/api/events")
BODY_BYTES = 999_000
HEAD_BYTES = 60_000
NUMBER_DIGITS = 4300
"""Python reads no longer ones."""


async def searches(target: Target) -> None:
    """Search the history of long prompts for words that are not in it, and for many words at once."""
    rng = Random(0)

    async def search(line: Line) -> None:
        while True:
            words = "%20".join(rng.choice(WORDS).replace(" ", "%20").replace("%", "%25") for _ in range(20))
            await line.ask(request("GET", f"/api/ai/generations?page_size=1000&search={words}"))

    await many(target, search, min(SEARCHES, target.connections))


async def echoes(target: Target) -> None:
    """Record as many failed requests with long fields as may be, then list them on connections that do not read."""
    # each of these characters takes six bytes in JSON, or four in memory
    prompts = {"prompt": "\1" * 10_000, "negative_prompt": "\U0001f402" * 10_000}
    unknown = {f"unknown{number}": "y" * 2000 for number in range(8)}
    failing = {**SMALL, **prompts, **unknown, "num_inference_steps": -1}
    bodies = [request("POST", "/api/ai/queue", {**failing, "target_directory": "z" * size}) for size in (1000, 800_000)]

    async def fill(line: Line) -> None:
        while True:
            await line.ask(bodies[line.number % 2])

    async def list_them(line: Line) -> None:
        await line.send(request("GET", LISTS[line.number % len(LISTS)]))
        await line.hold()

    await for_seconds(FILL_SHARE * target.seconds, many(target, fill, FILLERS))
    await many(target, list_them)


async def replays(target: Target) -> None:
    """Open event streams again and again while requests fail, so that each stream begins with many events."""
    failing = request("POST", "/api/ai/queue", {**SMALL, "prompt": "\1" * 10_000, "num_inference_steps": -1})

    async def fail_or_follow(line: Line) -> None:
        while line.number % 4 == 0:
            await line.ask(failing)
        await line.send(request("GET", "/api/events"))
        await line.receive()
        await line.hold()

    await many(target, fail_or_follow)


async def deep(target: Target) -> None:
    """Bodies of a megabyte that are deep, or of very many small values or names."""
    rng = Random(0)
    wide = [b'{"x":[' + each * (BODY_BYTES // len(each)) + b"0]}" for each in (b"[],", b'"",', b"1,", b'[{"a":[]}],')]
    names = json.dumps({**SMALL, "num_inference_steps": -1}).encode()[:-1]
    names += b"".join(b',"%d":0' % number for number in range(BODY_BYTES // 11)) + b"}"
    bodies = [*wide, names]

    async def send(line: Line) -> None:
        if line.number % 6 == 5:
            # each closes its connection
            await line.send(deep_json(rng))
            await line.linger()
        while True:
            await line.ask(request("POST", "/api/ai/queue", bodies[line.number % 6]))

    await many(target, send)


async def chunks(target: Target) -> None:
    """Bodies in chunks of one byte without an end, with a key and without; and long numbers."""
    start = "POST /api/ai/queue HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    media = "Content-Type: application/json\r\n"
    heads = [(start + media + f"Authorization: Bearer {KEY}\r\n\r\n").encode(), (start + "\r\n").encode()]
    numbers = (
        b'{"x":[' + b"9" * NUMBER_DIGITS + (b"," + b"9" * NUMBER_DIGITS) * (BODY_BYTES // NUMBER_DIGITS - 1) + b"]}"
    )

    async def send(line: Line) -> None:
        if line.number % 3 == 2:
            while True:
                await line.ask(request("POST", "/api/ai/queue", numbers))
        await line.send(heads[line.number % 3])
        while True:
            await line.send(b"1\r\n \r\n" * 1000)

    await many(target, send)


async def heads(target: Target) -> None:
    """Heads of nearly the largest size, of one field or of thousands, without a key and with one."""
    long, short = f"X: {'y' * HEAD_BYTES}", ["a: b"] * (HEAD_BYTES // 6)
    cookies = f"Cookie: {'a=b;' * (HEAD_BYTES // 4)}"
    query = "/api/ai/generations?" + "&".join(f"x{number}=1" for number in range(HEAD_BYTES // 10))
    contents = [request("GET", "/healthz", None, *fields, key=False) for fields in ([long], short, [cookies])] + [
        request("GET", query)
    ]

    async def send(line: Line) -> None:
        while True:
            await line.ask(contents[line.number % len(contents)])

    await many(target, send)


async def everything(target: Target) -> None:
    """Searches, echoed fields and deep bodies at once."""
    await asyncio.gather(*(attack(target) for attack in (searches, echoes, deep)))
