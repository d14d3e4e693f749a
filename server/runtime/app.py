"""The composition root: settings in, application out."""

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.core.catalogue import BUILT_IN, CatalogueEntry, read_catalogue
from pipelines.core.model import ModelSpec
from server import __version__
from server.api.auth import Authenticator
from server.api.middleware import BrowserGuard
from server.api.routes import events, files, generations, health, metrics, models, queue, videos, workbench
from server.core.circuit_breaker import Tolerance
from server.core.errors import BY_STATUS, InvalidParamsError, MethodNotAllowedError, PaddockError, ResourceNotFoundError
from server.core.events import Broker
from server.core.settings import Settings
from server.engine.interface import WorkerOptions
from server.engine.subprocess.engine import SubprocessEngine
from server.engine.watchdog import Patience
from server.scheduler.dispatcher import Dispatcher, SchedulerOptions
from server.service.metrics import Metrics
from server.service.service import Service
from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from server.storage.db.statements.expiry import Expiry
from server.storage.db.store import Store
from server.storage.files.checkpoints import Checkpoints
from server.storage.files.disk import Disk
from server.storage.files.previews import Previews
from server.storage.files.stores import FileStores
from server.storage.files.videos import Artifacts
from server.storage.retention import Retention

log = logging.getLogger("paddock")

WEIGHTS_HEADER = "X-Paddock-Weights"

_CPU_PATIENCE = 24
_OF_FILES = ("GET", "HEAD")


class DataDirInUseError(Exception):
    """Another server works on the data directory."""


def create_app(settings: Settings, devices: Sequence[str] = ("cpu",)) -> FastAPI:
    """The application on `devices` (torch device names); nothing is opened or started before its lifespan."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            server = stack.enter_context(locked(settings.data_dir))
            engine = stack.enter_context(opened(settings.records))
            store = Store(engine, max_overtakes=settings.max_overtakes, server=server)
            stack.callback(store.close)
            app.state.authenticator = authenticator = Authenticator(settings.api_keys, KeyRing(engine))
            app.state.artifacts = artifacts = Artifacts(settings.data_dir, settings.url_ttl)
            checkpoints = Checkpoints(settings.data_dir)
            app.state.previews = previews = Previews(settings.data_dir)
            broker = Broker()
            catalogue = load_catalogue(settings)
            engines = [_engine(settings, device, artifacts, checkpoints, previews) for device in devices]
            disk = Disk(settings.data_dir, settings.min_free_bytes)
            files = FileStores(artifacts, checkpoints, previews, disk)
            kept = retention(settings, store.expiry, artifacts)
            options = SchedulerOptions(
                lease=settings.lease,
                idle_unload=settings.idle_unload,
                tolerance=Tolerance(settings.unhealthy_after, settings.unhealthy_cooldown),
            )
            dispatcher = Dispatcher(store, files, kept, broker, catalogue, engines, options)
            app.state.service = service = Service(
                settings, catalogue, store.submissions, store.history, dispatcher, broker, disk, kept
            )
            watching = asyncio.create_task(authenticator.watch(broker.dismiss))
            stack.callback(watching.cancel)
            app.state.metrics = Metrics(broker, service.devices)
            if settings.demo:
                log.warning("DEMO WEIGHTS: videos come from a small model that only shows the server at work")
            await dispatcher.start()
            stack.push_async_callback(dispatcher.stop)
            stack.push_async_callback(service.suspend)
            stack.callback(service.begin_closing)
            if settings.preload:
                service.activate(service.entry(settings.preload))
            yield

    app = FastAPI(
        title="Paddock",
        summary="Text-to-video on your own GPU, behind the API you already call",
        version=__version__,
        lifespan=lifespan,
        # their pages load scripts from another host
        docs_url=None,
        redoc_url=None,
    )
    for router in (queue.router, videos.router, generations.router, models.router):
        app.include_router(router, prefix="/api/ai")
        app.include_router(router, include_in_schema=False)
    for router in (events.router, files.router, models.evaluations):
        app.include_router(router, prefix="/api")
        app.include_router(router, include_in_schema=False)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(workbench.router)
    app.mount("/web", workbench.page_files())
    _render_errors(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(
        BrowserGuard,
        names=settings.names,
        # where a key is needed a wrong name is no danger: a page that comes by it has none
        any_name=lambda: not settings.allowed_hosts and not app.state.authenticator.is_open,
        origins=settings.writers,
    )
    if settings.demo:
        app.add_middleware(_AnnounceDemo)
    return app


def _as_set(spec: ModelSpec, settings: Settings) -> ModelSpec:
    return replace(spec, precision=settings.precision, attention=settings.attention, compile=settings.compile)


def load_catalogue(settings: Settings) -> dict[str, CatalogueEntry]:
    """The built-in models and the user's own, in the precision that is set; raises CatalogueError."""
    found = read_catalogue([BUILT_IN, *([settings.models_dir] if settings.models_dir else [])])
    return {
        model_id: entry.model_copy(update={"model": _as_set(entry.model, settings)})
        for model_id, entry in found.items()
    }


def retention(settings: Settings, expiry: Expiry, artifacts: Artifacts) -> Retention:
    """What is kept of the past, by the settings."""
    return Retention(
        expiry,
        artifacts,
        days=settings.retention_days,
        max_bytes=settings.retention_bytes,
        grace=settings.retention_grace,
    )


@contextmanager
def locked(data_dir: Path) -> Iterator[str]:
    """Hold a data directory for one server; the lock ends with the process, however it ends.

    Yields the name under which the directory's servers, one after the other, are known to a database they share.
    Raises DataDirInUseError at once if another server holds it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    # not for writing only: that would empty another server's
    with (data_dir / "lock").open("a+") as lock:
        _take(lock, data_dir)
        yield _name_in(lock)


def _take(lock: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataDirInUseError(
            f"Another Paddock server uses the data directory {data_dir}. Stop it, or choose another with --data-dir."
        ) from None


def _name_in(lock: IO[str]) -> str:
    lock.seek(0)
    if not (name := lock.read().strip()):
        name = uuid4().hex
        lock.write(name)
        lock.flush()
    return name


def _engine(
    settings: Settings, device: str, artifacts: Artifacts, checkpoints: Checkpoints, previews: Previews
) -> SubprocessEngine:
    options = WorkerOptions(
        device=device,
        artifacts=str(artifacts.folder),
        checkpoints=str(checkpoints.folder),
        previews=str(previews.folder),
        checkpoint_interval=settings.checkpoint_interval,
        preview_interval=settings.preview_interval,
        cache=str(settings.data_dir / "cache"),
        demo=settings.demo,
        log_format=settings.log_format,
    )
    # the real weights on a processor take hours for a step, and no kernel of its hangs
    first = settings.stall_first * (_CPU_PATIENCE if device == "cpu" else 1)
    return SubprocessEngine(
        device,
        options,
        cancel_grace=settings.cancel_grace,
        silence=settings.worker_silence,
        patience=Patience(floor=settings.stall_floor, first=first, load=settings.stall_load),
    )


def _render_errors(app: FastAPI) -> None:
    @app.exception_handler(PaddockError)
    async def _paddock_error(_request: Request, error: PaddockError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _validation_error(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        ours = InvalidParamsError(f"{where}: {first['msg']}")
        return JSONResponse(ours.body, ours.status)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        kind = BY_STATUS.get(error.status_code, PaddockError)
        headers, sentence, path = dict(error.headers or {}), str(error.detail), request.url.path
        if kind is MethodNotAllowedError:
            # the router names the methods of the first route that has the path, not of all
            headers["Allow"] = ", ".join(_methods(app, path))
            sentence = f"{path} takes {headers['Allow']}, not {request.method}."
        if kind is ResourceNotFoundError:
            sentence = f"There is no route {path}. /openapi.json lists all."
        return JSONResponse(kind(sentence).body, error.status_code, headers)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        # nobody is there to read it; without it the log would be told of a fault
        return Response(status_code=InvalidParamsError.status)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, _error: Exception) -> Response:
        ours = PaddockError(f"{request.method} {request.url.path} failed. The server's log says more.")
        return JSONResponse(ours.body, ours.status)


def _methods(app: FastAPI, path: str) -> list[str]:
    routes = iter_route_contexts(app.routes)
    # a folder of files names no methods
    return sorted({method for route in routes if route.path_regex.match(path) for method in route.methods or _OF_FILES})


class _AnnounceDemo:
    """Adds a header to every answer that says that demo weights serve."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def announcing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[WEIGHTS_HEADER] = "demo"
            await send(message)

        await self._app(scope, receive, announcing)
