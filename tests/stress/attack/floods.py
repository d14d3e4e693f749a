"""Attacks by the number of requests: everything of the fuzz test, loading and unloading, idempotency keys."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from random import Random

from tests.stress.attack.wire import Line, Target, many, request
from tests.stress.fuzz import CLIENTS, KINDS, send
from tests.support.server_process import SMALL


async def fuzz(target: Target) -> None:
    """What the fuzz test sends, as fast as it can."""
    loop, numbers = asyncio.get_running_loop(), count()

    def send_one() -> bytes:
        rng = Random(next(numbers))
        return send(target.port, rng.choice(KINDS)(rng), rng)

    async def go_on(threads: ThreadPoolExecutor) -> None:
        while True:
            try:
                answer = await loop.run_in_executor(threads, send_one)
            except OSError as error:
                target.answers[type(error).__name__] += 1
                continue
            target.answers[answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/") else "none"] += 1

    threads = ThreadPoolExecutor(CLIENTS)
    try:
        await asyncio.gather(*(go_on(threads) for _ in range(CLIENTS)))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


async def loads(target: Target) -> None:
    """Load and unload every model, again and again; some connections only load."""
    first = Line(target, 0)
    await first.open()
    models = [model["id"] for model in json.loads(await first.ask(request("GET", "/api/ai/models")))["data"]]
    first.close()

    async def order(line: Line) -> None:
        verbs = ("activate", "deactivate") if line.number % 4 == 3 else ("activate",)
        for number in count(line.number):
            for verb in verbs:
                await line.ask(request("POST", f"/api/ai/models/{models[number % len(models)]}/{verb}"))

    await many(target, order)


async def idempotency(target: Target) -> None:
    """The same request under one key, others under that key, and a new key for each request."""

    async def enqueue(line: Line) -> None:
        for number in count():
            match line.number % 3:
                case 0:
                    key, seed = "the same", 1
                case 1:
                    key, seed = "the same", number
                case _:
                    key, seed = f"{line.number} {number} " + "k" * 200, number
            await line.ask(request("POST", "/api/ai/queue", {**SMALL, "seed": seed}, f"Idempotency-Key: {key}"))

    await many(target, enqueue)


async def waits(target: Target) -> None:
    """Requests that wait for their video, and whose clients follow all events meanwhile."""

    async def wait(line: Line) -> None:
        if line.number % 2:
            await line.send(request("GET", "/api/events"))
            await line.linger()
        while True:
            await line.ask(request("POST", "/api/ai/videos/generate", SMALL))

    await many(target, wait)


async def polls(target: Target) -> None:
    """Requests that are cheap one by one: without a key, with a wrong one, for no generation, and lists."""
    contents = [
        request("GET", "/api/ai/queue", key=False),
        request("GET", "/api/ai/queue", None, "Authorization: Bearer wrong", key=False),
        request("GET", "/api/ai/queue/none"),
        request("GET", "/api/ai/generations"),
        request("GET", "/api/ai/models"),
        request("DELETE", "/api/ai/queue/none"),
        request("GET", "/readyz", key=False),
        request("GET", "/metrics"),
    ]

    async def ask(line: Line) -> None:
        while True:
            await line.ask(contents[line.number % len(contents)])

    await many(target, ask)


async def churn(target: Target) -> None:
    """Enqueue several with long prompts, and cancel them at once: no queue is ever full."""

    async def enqueue_and_cancel(line: Line) -> None:
        # each character is eighteen in the index of words
        prompt = ("\ufdfa" if line.number % 2 else "\U0001f402") * 10_000
        content = request("POST", "/api/ai/queue", {**SMALL, "prompt": prompt, "num_generations": 4})
        while True:
            for made in json.loads(await line.ask(content)).get("generations", ()):
                await line.ask(request("DELETE", f"/api/ai/queue/{made['generation_id']}"))

    await many(target, enqueue_and_cancel)


async def places(target: Target) -> None:
    """Fill the queue, with two kinds of weights in turn, and ask again and again for the place of the last."""
    last: list[str] = []

    async def fill(line: Line) -> None:
        for number in count():
            content = request("POST", "/api/ai/queue", {**SMALL, "run_fast": number % 2 == 0, "num_generations": 4})
            if not (made := json.loads(await line.ask(content)).get("generations", ())):
                break
            last[:] = [made[-1]["generation_id"]]
        while True:
            await line.ask(request("GET", f"/api/ai/queue/{last[0]}"))

    await many(target, fill)
