"""The parts of a server on a fake engine: everything but HTTP and devices."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.core.catalogue import load_catalogue
from server.core.circuit_breaker import Tolerance
from server.core.events import Broker, Event
from server.core.generation import Generation, Origin, Status
from server.core.settings.settings import Settings
from server.media.fetch.download import Downloader
from server.runtime.app import build_files, build_retention, with_files
from server.scheduler.dispatcher import Dispatcher, SchedulerOptions
from server.scheduler.files.stills import StillsMaker
from server.service.library.library import Library
from server.service.other_servers import OtherServers
from server.service.progress_recorder import ProgressRecorder
from server.service.service import Service
from server.storage.db.connection import database_of
from server.storage.db.statements.signing_keys import keys_that_sign
from server.storage.files.disk import Disk
from server.storage.files.stores import FileStores, LocalFolders
from tests.server.fakes import FakeEngine
from tests.support.records import StandaloneStore as Store
from tests.support.server_process import SMALL


@dataclass
class Inside:
    """The parts, wired as the application wires them."""

    folder: Path
    settings: Settings
    store: Store
    folders: LocalFolders
    files: FileStores
    broker: Broker
    engines: list[FakeEngine]
    dispatcher: Dispatcher
    service: Service
    library: Library
    events: list[Event] = field(default_factory=list)
    sharing: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Start the devices, and what shows other servers to this one and this one to them."""
        if self.store.is_shared:
            recorder = ProgressRecorder(
                self.store.live_progress, self.broker, with_previews=self.files.scratch is not None
            )
            others = OtherServers(self.store.listener, self.store.history, self.broker, self.dispatcher)
            self.sharing = [asyncio.create_task(recorder.run()), asyncio.create_task(others.follow())]
        await self.dispatcher.start()

    async def stop(self) -> None:
        """Stop everything, and close the store."""
        await self.dispatcher.stop()
        for task in self.sharing:
            task.cancel()
        await asyncio.gather(*self.sharing, return_exceptions=True)
        self.store.close()

    @property
    def engine(self) -> FakeEngine:
        return self.engines[0]

    async def enqueue(self, count: int = 1, origin: Origin = Origin.QUEUE, **changes: Any) -> list[Generation]:
        """Submit small generations."""
        return await self.service.submit("", {**SMALL, "num_generations": count, **changes}, origin)

    async def read(self, generation: Generation) -> Generation:
        return (await self.service.get("", generation.id)).generation

    async def until(self, generation: Generation, *statuses: Status) -> Generation:
        """Wait until a generation has one of these statuses (any terminal one if none is named)."""
        async with asyncio.timeout(60):
            while True:
                now = await self.read(generation)
                if now.status in statuses or (not statuses and now.is_terminal):
                    return now
                await asyncio.sleep(0.005)

    async def outcomes(self) -> list[str | None]:
        return [entry["outcome"] for entry in await self.store.attempt_log()]


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


def build(
    folder: Path,
    executors: int = 1,
    engine: type[FakeEngine] = FakeEngine,
    downloader: Downloader | None = None,
    *,
    stills: bool = False,
    **changes: Any,
) -> Inside:
    """Parts on a data directory; nothing runs yet. Videos get stills only on request: those of a fake are none."""
    settings = Settings(data_dir=folder, **{"max_queued": 50, **changes})
    folder.mkdir(exist_ok=True)
    store = Store(database_of(settings), max_overtakes=settings.max_overtakes, server=folder.name)
    folders = LocalFolders.of(folder, is_scratch=settings.files_url is not None)
    disk = Disk(folder, settings.min_free_bytes)
    keys = keys_that_sign(store.engine)
    files = build_files(settings, folders, disk, keys, store.locks)
    broker = Broker()
    engines = [engine(folders.videos.folder, f"fake:{n}") for n in range(executors)]
    catalogue = load_catalogue(settings)
    kept = build_retention(settings, store.expiry, files, store.locks)
    options = SchedulerOptions(
        lease=settings.lease,
        idle_unload=settings.idle_unload,
        tolerance=Tolerance(settings.unhealthy_after, settings.unhealthy_cooldown),
    )
    around = [with_files(each, files) for each in engines]
    maker = StillsMaker(files.videos) if stills else None
    dispatcher = Dispatcher(store, files, kept, broker, catalogue, around, options, maker)
    service = Service(
        settings,
        catalogue,
        store.submissions,
        store.history,
        dispatcher,
        broker,
        disk,
        files.videos,
        files.inputs,
        store.awaited_inputs,
        downloader,
    )
    library = Library(store.library, store.history, dispatcher, kept, files.videos, keys, settings.url_ttl)
    return Inside(folder, settings, store, folders, files, broker, engines, dispatcher, service, library)


@asynccontextmanager
async def working(inside: Inside) -> AsyncIterator[None]:
    """The parts with their service, at work."""
    listening = asyncio.create_task(listen(inside))
    await inside.dispatcher.start()
    inside.service.start()
    try:
        yield
    finally:
        inside.service.begin_closing()
        await inside.dispatcher.stop()
        await listening
        inside.store.close()


async def listen(inside: Inside) -> None:
    """Collect all events."""
    with inside.broker.subscribe("") as subscription:
        async for event in subscription:
            inside.events.append(event)


StartShared = Callable[..., Inside]


@pytest.fixture
async def start_shared(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StartShared]:
    """Build servers on one PostgreSQL database by name; those that were started are stopped."""
    monkeypatch.setattr("server.scheduler.maintenance._WATCH_SECONDS", 0.05)
    built: list[Inside] = []

    def one(name: str, **changes: Any) -> Inside:
        inside = build(tmp_path / name, database_url=postgres_url, max_queued=1000, **changes)
        built.append(inside)
        return inside

    yield one
    for inside in built:
        await inside.stop()


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    """The parts, running."""
    inside = build(tmp_path / "data")
    listening = asyncio.create_task(listen(inside))
    await inside.dispatcher.start()
    yield inside
    await inside.dispatcher.stop()
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    inside.store.close()
