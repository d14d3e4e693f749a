"""The asynchronous client."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from paddock._core.download import MAX_BYTES, Download
from paddock._core.flows import Flow
from paddock._core.follow import Follower
from paddock._core.operations import Operations, check_one, succeeded
from paddock._core.protocol import Protocol
from paddock._drivers import AsyncDriver, open_http
from paddock.errors import PaddockError
from paddock.retry import NEVER, RetryPolicy
from paddock.types import (
    DEFAULT_MODEL,
    Filters,
    Generation,
    GenerationLike,
    Lora,
    Model,
    Parameters,
    QueueFilters,
    Update,
    id_of,
    ids_of,
)

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited. Tasks of one event loop may share it."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As `Client`."""
        protocol = Protocol(url, api_key, timeout)
        self._operations = Operations(protocol, retry or RetryPolicy())
        self._http = open_http(httpx.AsyncClient, protocol, transport)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._operations.protocol.url

    async def generate(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        timeout: float | None = None,
        on_update: Callable[[Update], object] | None = None,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> Generation:
        """As `Client.generate`. A cancelled task cancels its generation too."""
        check_one(parameters)
        (generation,) = await self.enqueue(prompt, model=model, idempotency_key=idempotency_key, **parameters)
        try:
            return succeeded(await self.wait(generation, timeout=timeout, on_update=on_update))
        except BaseException:
            with suppress(PaddockError):
                await self._run(self._operations.cancel(generation.id, NEVER))
            raise

    async def enqueue(
        self,
        prompt: str | Sequence[str],
        *,
        model: str = DEFAULT_MODEL,
        num_generations: int = 1,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> list[Generation]:
        """As `Client.enqueue`."""
        flow = self._operations.enqueue(prompt, model, num_generations, idempotency_key, parameters)
        return await self._run(flow)

    def follow(
        self, generations: GenerationLike | Sequence[GenerationLike], *, timeout: float | None = None
    ) -> AsyncIterator[Update]:
        """As `Client.follow`, with `async for`."""
        return AsyncDriver(self._http).iterate(Follower(self._operations, ids_of(generations), timeout).flow())

    async def wait(
        self,
        generation: GenerationLike,
        *,
        timeout: float | None = None,
        on_update: Callable[[Update], object] | None = None,
    ) -> Generation:
        """As `Client.wait`."""
        return (await self.wait_all([generation], timeout=timeout, on_update=on_update))[0]

    async def wait_all(
        self,
        generations: Sequence[GenerationLike],
        *,
        timeout: float | None = None,
        on_update: Callable[[Update], object] | None = None,
    ) -> list[Generation]:
        """As `Client.wait_all`."""
        finished: dict[str, Generation] = {}
        async for update in self.follow(generations, timeout=timeout):
            if on_update is not None:
                on_update(update)
            if update.generation is not None:
                finished[update.generation_id] = update.generation
        return [finished[id_of(each)] for each in generations]

    async def get(self, generation: GenerationLike) -> Generation:
        """As `Client.get`."""
        return await self._run(self._operations.get(id_of(generation)))

    async def cancel(self, generation: GenerationLike) -> None:
        """As `Client.cancel`."""
        await self._run(self._operations.cancel(id_of(generation)))

    async def remove(self, generation: GenerationLike) -> None:
        """As `Client.remove`."""
        await self._run(self._operations.remove(id_of(generation)))

    async def mark(
        self,
        generations: GenerationLike | Sequence[GenerationLike],
        *,
        favourite: bool | None = None,
        add_tags: Sequence[str] = (),
        remove_tags: Sequence[str] = (),
    ) -> None:
        """As `Client.mark`."""
        await self._run(self._operations.mark(ids_of(generations), favourite, add_tags, remove_tags))

    async def download(
        self, generation: GenerationLike, path: str | PathLike[str], *, max_bytes: int = MAX_BYTES
    ) -> Path:
        """As `Client.download`. The file is written in a thread."""
        return await self._run(Download(self._operations, id_of(generation), Path(path), max_bytes).flow())

    async def queue(self, **filters: Unpack[QueueFilters]) -> list[Generation]:
        """As `Client.queue`."""
        return await self._run(self._operations.queue(filters))

    def history(
        self, *, limit: int | None = None, page_size: int = 100, **filters: Unpack[Filters]
    ) -> AsyncIterator[Generation]:
        """As `Client.history`, with `async for`."""
        return AsyncDriver(self._http).iterate(self._operations.history(filters, page_size, limit))

    async def models(self, *, search: str | None = None) -> list[Model]:
        """As `Client.models`."""
        return await self._run(self._operations.models(search))

    async def loras(self, *, model: str | None = None) -> list[Lora]:
        """As `Client.loras`."""
        return await self._run(self._operations.loras(model))

    async def _run(self, flow: Flow[T]) -> T:
        return await AsyncDriver(self._http).run(flow)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
