"""The parts of a server with several devices, which a test may start with other settings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.server.conftest import Inside, build, listen
from tests.server.scheduler.test_dispatcher import with_another_model

Start = Callable[..., Awaitable[Inside]]


@pytest.fixture
async def start(tmp_path: Any) -> AsyncIterator[Start]:
    """Starts the parts of a server: `await start(executors=2, setting=value)`."""
    started: list[tuple[Inside, asyncio.Task[None]]] = []

    async def start(**changes: Any) -> Inside:
        inside = build(tmp_path / "data", models_dir=with_another_model(tmp_path / "models"), **changes)
        started.append((inside, asyncio.create_task(listen(inside))))
        await inside.dispatcher.start()
        return inside

    yield start
    for inside, listening in started:
        await inside.dispatcher.stop()
        listening.cancel()
        inside.store.close()


async def turns() -> None:
    """Let the loop go on as far as it can without waiting for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)
