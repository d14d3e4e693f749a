"""The synchronous client."""

from collections.abc import Callable, Iterator, Sequence
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
from paddock._drivers import Driver, open_http
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


class Client:
    """A client of one Paddock server. Close it after use, or use it as a context manager. Threads may share it.

    Every method raises a PaddockError: an APIError if the server refuses the request, UnreachableError if it does not
    answer, UnexpectedResponseError if the response is not one of Paddock's API.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect to nothing yet.

        `url` is the server's address, by default PADDOCK_URL, else http://127.0.0.1:8000; `api_key` by default
        PADDOCK_API_KEY. The key is sent to this address only. `timeout` is how many seconds the server may take for the
        next byte of a response. `transport` replaces httpx's own, for example to trust other certificates.
        """
        protocol = Protocol(url, api_key, timeout)
        self._operations = Operations(protocol, retry or RetryPolicy())
        self._http = open_http(httpx.Client, protocol, transport)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._operations.protocol.url

    def generate(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        timeout: float | None = None,
        on_update: Callable[[Update], object] | None = None,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> Generation:
        """Generate one video and wait until it is ready.

        It is enqueued and followed, so that lost connections and restarts of the server do no harm. `on_update` is
        called with each update. Raises GenerationFailedError if the generation fails, with the server's reason, and
        WaitTimeoutError after `timeout` seconds. A generation that is not waited for any more, because of an error or
        Ctrl-C, is cancelled.
        """
        check_one(parameters)
        (generation,) = self.enqueue(prompt, model=model, idempotency_key=idempotency_key, **parameters)
        try:
            return succeeded(self.wait(generation, timeout=timeout, on_update=on_update))
        except BaseException:
            with suppress(PaddockError):
                self._run(self._operations.cancel(generation.id, NEVER))
            raise

    def enqueue(
        self,
        prompt: str | Sequence[str],
        *,
        model: str = DEFAULT_MODEL,
        num_generations: int = 1,
        idempotency_key: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> list[Generation]:
        """Enqueue generations and return at once.

        Of each prompt, `num_generations` videos are made, the n-th with `seed` + n; generations of one prompt stand
        together. At most 1,000 prompts. The server checks the other parameters when it reads them: a generation with
        invalid ones has failed, and its `error_message` gives the reason. With the same `idempotency_key`, the same
        call within a day returns the same generations; by default each call has a key of its own, for its retries.
        """
        flow = self._operations.enqueue(prompt, model, num_generations, idempotency_key, parameters)
        return self._run(flow)

    def follow(
        self, generations: GenerationLike | Sequence[GenerationLike], *, timeout: float | None = None
    ) -> Iterator[Update]:
        """Iterate over the progress of one or several generations until all are over.

        The last update of each has its `generation`. The client connects again when a connection breaks or the server
        restarts; meanwhile it yields updates whose `is_connected` is False. Raises WaitTimeoutError after `timeout`
        seconds.
        """
        return Driver(self._http).iterate(Follower(self._operations, ids_of(generations), timeout).flow())

    def wait(
        self,
        generation: GenerationLike,
        *,
        timeout: float | None = None,
        on_update: Callable[[Update], object] | None = None,
    ) -> Generation:
        """Wait until a generation is over and return it, whatever its status. For the rest see `follow`."""
        return self.wait_all([generation], timeout=timeout, on_update=on_update)[0]

    def wait_all(
        self,
        generations: Sequence[GenerationLike],
        *,
        timeout: float | None = None,
        on_update: Callable[[Update], object] | None = None,
    ) -> list[Generation]:
        """Wait until several generations are over and return them in the order given."""
        finished: dict[str, Generation] = {}
        for update in self.follow(generations, timeout=timeout):
            if on_update is not None:
                on_update(update)
            if update.generation is not None:
                finished[update.generation_id] = update.generation
        return [finished[id_of(each)] for each in generations]

    def get(self, generation: GenerationLike) -> Generation:
        """Read a generation again."""
        return self._run(self._operations.get(id_of(generation)))

    def cancel(self, generation: GenerationLike) -> None:
        """Cancel a generation, queued or running. It has no effect on one that is over."""
        self._run(self._operations.cancel(id_of(generation)))

    def remove(self, generation: GenerationLike) -> None:
        """Remove a generation that is over, and its video. Raises ConflictError for one that is not over."""
        self._run(self._operations.remove(id_of(generation)))

    def mark(
        self,
        generations: GenerationLike | Sequence[GenerationLike],
        *,
        favourite: bool | None = None,
        add_tags: Sequence[str] = (),
        remove_tags: Sequence[str] = (),
    ) -> None:
        """Make generations favourites or not, and add and remove tags. Of each 500 all are marked, or none."""
        self._run(self._operations.mark(ids_of(generations), favourite, add_tags, remove_tags))

    def download(self, generation: GenerationLike, path: str | PathLike[str], *, max_bytes: int = MAX_BYTES) -> Path:
        """Fetch the video of a generation to `path` and return the path of the file.

        In a folder, the file is named after the generation. The file is complete or absent: it is written under
        another name and renamed at the end, and replaces a file of that name. A broken connection is resumed. Raises
        DownloadError, VideoUnavailableError and GenerationFailedError.
        """
        return self._run(Download(self._operations, id_of(generation), Path(path), max_bytes).flow())

    def queue(self, **filters: Unpack[QueueFilters]) -> list[Generation]:
        """The generations that are queued or processing, newest first, at most 1,000."""
        return self._run(self._operations.queue(filters))

    def history(
        self, *, limit: int | None = None, page_size: int = 100, **filters: Unpack[Filters]
    ) -> Iterator[Generation]:
        """Iterate over all generations, newest first, and read them in pages of `page_size` (at most 1,000).

        It ends after `limit` generations.
        """
        return Driver(self._http).iterate(self._operations.history(filters, page_size, limit))

    def models(self, *, search: str | None = None) -> list[Model]:
        """The models that the server offers; with `search`, those whose name or description has all these words."""
        return self._run(self._operations.models(search))

    def loras(self, *, model: str | None = None) -> list[Lora]:
        """The LoRAs that requests may name; with the id of a `model`, those that fit it."""
        return self._run(self._operations.loras(model))

    def _run(self, flow: Flow[T]) -> T:
        return Driver(self._http).run(flow)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
