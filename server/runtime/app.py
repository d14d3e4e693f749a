"""The composition root: builds the application from the settings."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from server import __version__
from server.api.auth import Authenticator, OpenRequests
from server.api.bodies.inputs import MAX_AT_ONCE, MAX_AT_ONCE_OF_TENANT
from server.api.bodies.json_body import LargeBodies
from server.api.error_handlers import add_error_handlers
from server.api.links import Links
from server.api.middleware import EXPOSED_HEADERS, BrowserGuard, Cors, DemoWeightsHeader, HeadRequests
from server.api.openai import content, derived
from server.api.openai import models as openai_models
from server.api.openai import videos as openai_videos
from server.api.openapi import complete_openapi
from server.api.routes import (
    events,
    files,
    health,
    loras,
    metrics,
    models,
    queue,
    uploads,
    videos,
)
from server.api.routes.drafts import estimate, prompts
from server.api.routes.library import generations, many
from server.api.routes.pages import reference, workbench
from server.api.serializers import webhook_event
from server.core.catalogue import load_catalogue
from server.core.circuit_breaker import Tolerance
from server.core.events import Broker
from server.core.settings.sections import StorageSettings
from server.core.settings.settings import Settings
from server.core.turns import Turns
from server.engine.interface import Engine
from server.engine.ray.nodes import ClusterHost
from server.engine.ray.options import bridge_environment
from server.engine.ray.watch import cluster_views
from server.runtime.cluster import ClusterDevices
from server.runtime.data_dir import locked
from server.runtime.engines import make_cluster_engine, make_engine, token_file, worker_template
from server.runtime.fitting import MemoryFit
from server.runtime.http.forwarded import ForwardedHeaders, TrustedProxies
from server.scheduler.dispatcher import Dispatcher, SchedulerOptions
from server.scheduler.files.stills import StillsMaker
from server.scheduler.files.transfers import TransferringEngine
from server.service.library.library import Library
from server.service.metrics import Metrics
from server.service.notifications.webhooks.delivery import WebhookDelivery
from server.service.notifications.webhooks.signing import secret_of
from server.service.other_servers import OtherServers
from server.service.progress_recorder import ProgressRecorder
from server.service.service import Service
from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import database_of, opened
from server.storage.db.sharing.locks import Locks
from server.storage.db.statements.expiry import Expiry
from server.storage.db.statements.signing_keys import keys_that_sign
from server.storage.db.store import Store
from server.storage.files.disk import Disk
from server.storage.files.object_store.bucket import Bucket
from server.storage.files.stores import FileStores, LocalFolders, key_of
from server.storage.retention import Retention
from server.storage.webhooks.deliveries import Delivery

log = logging.getLogger("paddock")

_COUNT_SECONDS = 600.0


def create_app(settings: Settings, devices: Sequence[str] = ("cpu",)) -> FastAPI:
    """Build the application for `devices` (torch device names), none if they are a cluster's.

    Nothing is opened or started before its lifespan.
    """
    app = FastAPI(
        title="Paddock",
        summary="Text-to-video on your own GPU, behind the API you already call",
        version=__version__,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        lifespan=partial(_lifespan, settings=settings, devices=devices),
        # Starlette's redirects repeat the request's Host; error_handlers has relative ones
        redirect_slashes=False,
        # routes.pages.reference has these: FastAPI's pages load scripts from another host
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    for router in (
        queue.router,
        videos.router,
        prompts.router,
        estimate.router,
        uploads.router,
        # before the routes of one generation: its names are no ids
        many.router,
        generations.router,
        models.router,
        loras.router,
    ):
        app.include_router(router, prefix="/api/ai")
        app.include_router(router, include_in_schema=False)
    for router in (events.router, files.router, models.evaluations):
        app.include_router(router, prefix="/api")
        app.include_router(router, include_in_schema=False)
    # its fixed paths before those of one video
    for router in (derived.router, content.router, openai_videos.router, openai_models.router):
        app.include_router(router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(reference.router)
    app.include_router(workbench.router)
    app.mount("/web", workbench.page_files())
    add_error_handlers(app)
    complete_openapi(app, lambda: load_catalogue(settings), settings)
    if settings.cors_origins:
        app.add_middleware(
            Cors,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(
        BrowserGuard,
        names=settings.host_names,
        # with API keys a wrong host name is harmless: a malicious page has no key
        any_name=lambda: not settings.allowed_hosts and not app.state.authenticator.is_open,
        origins=settings.write_origins,
    )
    app.add_middleware(HeadRequests)
    if settings.demo:
        app.add_middleware(DemoWeightsHeader)
    app.add_middleware(
        ForwardedHeaders, proxies=TrustedProxies(settings.trusted_proxies), public_path=settings.public_path
    )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, devices: Sequence[str]) -> AsyncIterator[None]:
    """Start the parts of the server, store those that routes need in `app.state`, and stop them at the end."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(locked(settings.data_dir))
        engine = stack.enter_context(opened(database_of(settings)))
        store = Store(engine, max_overtakes=settings.max_overtakes, server=server)
        stack.callback(store.close)
        app.state.large_bodies, app.state.input_turns = LargeBodies(), Turns(MAX_AT_ONCE, MAX_AT_ONCE_OF_TENANT)
        app.state.open_requests = OpenRequests(settings.max_requests_per_key)
        app.state.authenticator = authenticator = Authenticator(settings.api_keys, KeyRing(engine))
        folders = LocalFolders.of(settings.data_dir, is_scratch=settings.files_url is not None)
        disk = Disk(settings.data_dir, settings.min_free_bytes)
        keys = keys_that_sign(engine, key_of(settings.data_dir))
        files = build_files(settings, folders, disk, keys, store.locks)
        app.state.videos, app.state.previews, app.state.inputs = files.videos, files.previews, files.inputs
        broker = Broker()
        catalogue = load_catalogue(settings)
        template = worker_template(settings, devices) if devices else None
        engines = [with_files(make_engine(settings, device, folders, template), files) for device in devices]
        retention = build_retention(settings, store.expiry, files, store.locks)
        options = SchedulerOptions(
            lease=settings.lease,
            idle_unload=settings.idle_unload,
            tolerance=Tolerance(settings.unhealthy_after, settings.unhealthy_cooldown),
        )
        stills = StillsMaker(files.videos)
        dispatcher = Dispatcher(store, files, retention, broker, catalogue, engines, options, stills)
        app.state.service = service = Service(
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
            fit_check=MemoryFit(devices),
        )
        app.state.library = Library(
            store.library, store.history, dispatcher, retention, files.videos, keys, settings.url_ttl
        )
        await stack.enter_async_context(_background(authenticator.watch(broker.dismiss), "revoked keys"))
        app.state.metrics = Metrics(broker, service.devices)
        if settings.demo:
            log.warning("DEMO WEIGHTS: videos come from a small model that is only for trying out the server")
        if template is not None:
            stack.push_async_callback(template.close)
            await stack.enter_async_context(_background(template.start_later()))
        webhooks = build_webhooks(settings, store, broker, files, keys, authenticator)
        await stack.enter_async_context(_background(webhooks.run(), "events to webhooks"))
        await stack.enter_async_context(_sharing(store, broker, dispatcher, with_previews=files.scratch is not None))
        stack.push_async_callback(service.prompts.close)
        # before videos are planned: it takes of the same memory
        await _until_closing(service, service.prompts.start())
        await dispatcher.start()
        stack.push_async_callback(dispatcher.stop)
        if settings.ray_address is not None:
            following = _following_cluster(settings, dispatcher, folders, files)
            await stack.enter_async_context(_background(following, "news of the cluster"))
        service.start()
        stack.push_async_callback(service.ended)
        stack.push_async_callback(service.suspend)
        stack.callback(service.begin_closing)
        if settings.preload:
            service.activate(service.entry(settings.preload))
        yield


def _following_cluster(
    settings: Settings, dispatcher: Dispatcher, folders: LocalFolders, files: FileStores
) -> Coroutine[Any, Any, None]:
    assert settings.ray_address is not None

    def engine(host: ClusterHost, index: int) -> Engine:
        return with_files(make_cluster_engine(settings, host, index, folders), files)

    devices = ClusterDevices(dispatcher, engine, demo=settings.demo)
    environment = bridge_environment(settings.ray_address, token_file(settings))
    views = cluster_views(settings.ray_address, environment)
    return devices.follow(views)


async def _until_closing(service: Service, work: Coroutine[Any, Any, None]) -> None:
    """Do work of the start, unless the server is to stop meanwhile."""
    task = asyncio.create_task(work)

    def stop() -> None:
        task.cancel()

    with service.when_closing(stop):
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None], passes_on: str | None = None) -> AsyncIterator[None]:
    """Do work beside the context, and end it with the context. Of what passes on something an early end is logged."""

    def note_end(task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            log.error("what passes on %s has ended; restart the server", passes_on, exc_info=task.exception())

    task = asyncio.create_task(work)
    if passes_on is not None:
        task.add_done_callback(note_end)
    try:
        yield
    finally:
        task.cancel()
        # it may use the records until it has ended, and they are closed next
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _sharing(store: Store, broker: Broker, dispatcher: Dispatcher, *, with_previews: bool) -> AsyncIterator[None]:
    """Pass on what happens between servers on the same records within the context."""
    if not store.is_shared:
        yield
        return
    recorder = ProgressRecorder(store.live_progress, broker, with_previews=with_previews)
    others = OtherServers(store.listener, store.history, broker, dispatcher)
    async with _background(recorder.run(), "progress"), _background(others.follow(), "news of other servers"):
        yield


def build_files(
    settings: StorageSettings, folders: LocalFolders, disk: Disk, keys: Sequence[str], locks: Locks
) -> FileStores:
    """Build the stores of files from the settings. Raises ObjectStoreUnusableError."""
    if settings.files_url is None:
        return FileStores.local(folders, keys, settings.url_ttl, disk, locks)
    bucket = Bucket.of(settings.files_url, settings.files_credentials)
    return FileStores.in_bucket(bucket, folders, keys, settings.url_ttl, disk, locks, redirects=settings.redirect_links)


def with_files(engine: Engine, files: FileStores) -> Engine:
    """Have an engine's files kept where the settings say; its workers write them to local folders."""
    return engine if files.scratch is None else TransferringEngine(engine, files.scratch)


def build_webhooks(
    settings: Settings,
    store: Store,
    broker: Broker,
    files: FileStores,
    keys: Sequence[str],
    authenticator: Authenticator,
) -> WebhookDelivery:
    """Build what delivers the events of webhooks."""

    def render(delivery: Delivery) -> bytes:
        webhook = delivery.generation.webhook
        base = settings.public_url or (webhook.base if webhook is not None else "")
        return webhook_event(delivery, Links(base.rstrip("/"), files.videos, files.inputs))

    secret = partial(secret_of, keys[0])
    return WebhookDelivery(store.deliveries, broker, render, secret, authenticator.accepts, settings)


def build_retention(settings: Settings, expiry: Expiry, files: FileStores, locks: Locks) -> Retention:
    """Build the retention of rows and videos from the settings."""
    return Retention(
        expiry,
        files.videos,
        files.inputs,
        locks,
        days=settings.retention_days,
        max_bytes=settings.retention_bytes,
        grace=settings.retention_grace,
        # an object store is paid for each request
        count_every=0 if files.scratch is None else _COUNT_SECONDS,
    )
