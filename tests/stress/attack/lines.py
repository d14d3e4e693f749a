"""Attacks by connections: many requests that nobody reads the answers of, idle connections, and half of everything."""

import asyncio
import json
import os

from tests.stress.attack.wire import Line, Target, many, request
from tests.support.server_process import SMALL

PIPELINED = 17
"""One that is carried out and as many as may wait."""

TOO_MANY = 64
SLOTS = 1100
"""More connections than the server may have descriptors."""

VIDEO_BYTES = 2**26
ENCODED_BYTES = 2**23
"""A few seconds in 720p."""

READS = ("/api/ai/models", "/api/ai/generations?page_size=1000", "/api/ai/queue", "/openapi.json")
OPEN_READS = ("/openapi.json", "/web/js/texts/english/page.js", "/web/css/base.css", "/")


async def nothing(target: Target) -> None:
    """No attack."""
    await asyncio.sleep(target.seconds)


async def pipelining(target: Target) -> None:
    """Pipeline as many requests as may wait, or more, and read nothing."""
    await _pipeline(target, READS, key=True)


async def open_pipelining(target: Target) -> None:
    """The same without a key, on routes that need none."""
    await _pipeline(target, OPEN_READS, key=False)


async def _pipeline(target: Target, paths: tuple[str, ...], *, key: bool) -> None:
    async def send(line: Line) -> None:
        content = request("GET", paths[line.number % len(paths)], key=key)
        if line.number % 2:
            await line.send(content * TOO_MANY)
            line.target.answers["sent"] += TOO_MANY
            await line.linger()
        else:
            await line.send(content * PIPELINED)
            await line.hold()

    await many(target, send)


async def descriptors(target: Target) -> None:
    """Use up the server's descriptors: idle connections, event streams, and downloads that are not read."""
    link = await _long_video(target)

    async def take_one(line: Line) -> None:
        if line.number % 3 == 0:
            await line.send(request("GET", "/api/events"))
            await line.linger()
        if line.number % 3 == 1:
            await line.send(request("GET", link, key=False))
            await line.hold()
        await line.linger()

    await many(target, take_one, SLOTS)


async def halves(target: Target) -> None:
    """Send heads and bodies without their ends, and read videos slowly."""
    link = await _long_video(target)
    body = json.dumps({**SMALL, "x": "y" * 900_000}).encode()
    start = request("POST", "/api/ai/queue", body)[:-1]
    head = request("GET", "/api/ai/models", None, *(f"X-{number}: {'y' * 1000}" for number in range(30)))[:-3]

    async def send_half(line: Line) -> None:
        match line.number % 4:
            case 0 | 1:
                await line.send(start)
            case 2:
                await line.send(head)
            case _:
                await line.send(request("GET", link, key=False))
                await line.receive()
                await line.hold()
        await line.linger()

    await many(target, send_half)


async def _long_video(target: Target) -> str:
    """The path of a video of VIDEO_BYTES."""
    link = await _make_video(target, request("POST", "/api/ai/videos/generate", SMALL), VIDEO_BYTES)
    return "/api" + link.partition("/api")[2]


async def _make_video(target: Target, content: bytes, size: int) -> str:
    """Send a sync request, and give its video a size by zeros at its end, as a long one takes long. Returns its URL."""
    line = Line(target, 0)
    await line.open()
    await line.ask(content)
    (row,) = json.loads(await line.ask(request("GET", "/api/ai/generations?page_size=1")))["generations"]
    line.close()
    (file,) = target.data_dir.rglob(f"{row['generation_id']}.*.mp4")
    await asyncio.to_thread(os.truncate, file, size)
    return str(row["result_url"])


async def base64(target: Target) -> None:
    """Ask for a finished video in base64, on many connections that do not read: an idempotency key makes it no more."""
    body = {**SMALL, "response_format": "b64_json", "seed": 1}
    again = request("POST", "/api/ai/videos/generate", body, "Idempotency-Key: one")
    await _make_video(target, again, ENCODED_BYTES)

    async def ask(line: Line) -> None:
        await line.send(again)
        await line.hold()

    await many(target, ask)
