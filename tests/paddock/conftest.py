"""One suite for both clients: the synchronous one runs in a thread, so that its methods can be awaited too."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from paddock import AsyncClient, Client, RetryPolicy
from tests.paddock.scripted import Scripted

QUICK = RetryPolicy(attempts=3, backoff=0.0)
_END = object()


class Awaited:
    """A synchronous client with the asynchronous one's methods."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def iterate(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            iterator = method(*args, **kwargs)
            while (each := await asyncio.to_thread(next, iterator, _END)) is not _END:
                yield each

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return iterate if name in ("follow", "history") else call


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two clients a test uses."""
    return str(request.param)


@pytest.fixture
async def connect(kind: str) -> AsyncIterator[Callable[..., Any]]:
    """Make clients: `connect(url, key, retry=…)`, or `connect(script)` for one that reaches no network."""
    made: list[Any] = []

    def connect(url: str | Scripted = "http://paddock.test", *args: Any, **kwargs: Any) -> Any:
        if isinstance(url, Scripted):
            url, kwargs["transport"] = "http://paddock.test", url
        kwargs.setdefault("retry", QUICK)
        client: Any = AsyncClient(url, *args, **kwargs) if kind == "async" else Awaited(Client(url, *args, **kwargs))
        made.append(client)
        return client

    yield connect
    for client in made:
        await client.close()
