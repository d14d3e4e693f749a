"""Both clients against a real server with the demo's weights."""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock import (
    AsyncClient,
    Client,
    ConflictError,
    GenerationFailedError,
    InvalidParamsError,
    Parameters,
    ResourceNotFoundError,
    UnauthenticatedError,
    Update,
)
from paddock.types import DEFAULT_MODEL
from pipelines.models import catalogue
from server.api.schemas.requests import WEBHOOK_PARAMETERS
from tests.support.server_process import ENDLESS, SMALL, ServerProcess, eventually
from tests.support.video import read_video

SIZE = {name: value for name, value in SMALL.items() if name not in ("model", "prompt")}
LONG = {name: value for name, value in ENDLESS.items() if name not in ("model", "prompt")}


@pytest.fixture
def client(connect: Callable[..., Any], tenant: ServerProcess, key: str) -> Any:
    """A client that sees only the test's own generations."""
    return connect(tenant.url, key)


async def test_generate_waits_for_the_video_and_download_fetches_it(client: Any, tmp_path: Path) -> None:
    updates: list[Update] = []

    generation = await client.generate("an ox", seed=7, on_update=updates.append, **SIZE)
    path = await client.download(generation, tmp_path)

    assert (generation.status, generation.seed, generation.prompt) == ("succeeded", 7, "an ox")
    assert generation.parameters["width"] == 64
    assert generation.completed_at >= generation.started_at >= generation.enqueued_at
    assert path.name == f"{generation.id}.mp4"
    assert read_video(path).shape == (5, 64, 64, 3)
    async with httpx.AsyncClient() as browser:
        for url in (generation.thumbnail_url, generation.spritesheet_url):
            assert (await browser.get(url)).headers["content-type"] == "image/webp"
    assert updates[-1].generation == generation
    assert {update.stage for update in updates} >= {"denoising"}


async def test_several_are_enqueued_and_followed_at_once(client: Any) -> None:
    enqueued = await client.enqueue(["an ox", "a lake"], num_generations=2, seed=5, **SIZE)
    seen: dict[str, list[float]] = {}

    async for update in client.follow(enqueued):
        seen.setdefault(update.generation_id, []).append(update.progress)

    finished = await client.wait_all(enqueued)
    assert [(each.prompt, each.seed) for each in finished] == [("an ox", 5), ("an ox", 6), ("a lake", 5), ("a lake", 6)]
    assert {each.status for each in finished} == {"succeeded"}
    assert seen.keys() == {each.id for each in enqueued}
    assert all(progress[-1] == 1.0 for progress in seen.values())


async def test_a_cancellation_ends_wait(client: Any, tenant: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock._core.follow.POLL_SECONDS", 1.0)
    (generation,) = await client.enqueue("an ox", **LONG)
    waiting = asyncio.create_task(client.wait(generation))
    await asyncio.to_thread(eventually, lambda: tenant.listed("processing"), tenant)

    await client.cancel(generation)

    assert (await waiting).status == "cancelled"
    await client.cancel(generation.id)
    with pytest.raises(GenerationFailedError, match="The generation cancelled: by request"):
        await client.download(generation, "nowhere.mp4")


async def test_a_cancelled_task_cancels_its_generation(tenant: ServerProcess, key: str) -> None:
    async with AsyncClient(tenant.url, key) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.generate("an ox", **LONG)

        (row,) = [each async for each in client.history()]
        assert row.status == "cancelled"


async def test_the_history_is_paged_and_filtered(client: Any) -> None:
    # they fail at once, and need no worker
    made = await client.enqueue(["an ox", "a red ox", "a lake"], num_generations=2, height=0, target_repo="mine")
    newest_first = [generation.id for generation in reversed(made)]

    async def ids(**filters: Any) -> list[str]:
        return [generation.id async for generation in client.history(**filters)]

    assert await ids() == newest_first
    assert await ids(page_size=2) == newest_first
    assert await ids(page_size=4, limit=5) == newest_first[:5]
    assert await ids(limit=0) == []
    assert await ids(search="ox red") == newest_first[2:4]
    assert await ids(status="succeeded") == await ids(repo="yours") == []
    assert await ids(status="failed", repo="mine", model=DEFAULT_MODEL) == newest_first
    assert await client.queue() == []
    assert [each.id for each in await client.queue(status="failed")] == newest_first


async def test_generations_are_marked_and_found_by_their_marks(client: Any) -> None:
    made = await client.enqueue(["an ox", "a lake", "a duck"], height=0)

    async def found(**filters: Any) -> list[tuple[str | None, bool, tuple[str, ...]]]:
        return [(each.prompt, each.favourite, each.tags) async for each in client.history(page_size=1, **filters)]

    await client.mark(made[:2], favourite=True, add_tags=["b", "a"])
    await client.mark(made[0], remove_tags=["a"], add_tags=["c"])
    await client.mark(made[1].id, favourite=False)

    assert await found() == [("a duck", False, ()), ("a lake", False, ("a", "b")), ("an ox", True, ("b", "c"))]
    assert await found(favourite=True) == await found(tag="c") == [("an ox", True, ("b", "c"))]
    assert await found(tag="b", favourite=False, since=1) == [("a lake", False, ("a", "b"))]
    assert await found(size="832x480") == await found(until=1) == []
    with pytest.raises(ConflictError, match="at most 20 tags"):
        await client.mark(made, add_tags=[str(number) for number in range(20)])
    with pytest.raises(ResourceNotFoundError):
        await client.mark("none", favourite=True)


async def test_a_generation_is_read_and_removed(client: Any) -> None:
    (failed,) = await client.enqueue("an ox", height=0)
    (running,) = await client.enqueue("an ox", **LONG)

    read = await client.get(failed)
    assert read.is_over
    assert "height must be" in read.error_message
    with pytest.raises(GenerationFailedError, match="height must be"):
        await client.generate("an ox", height=0)
    with pytest.raises(ConflictError, match="cancel it before you remove it"):
        await client.remove(running)
    await client.remove(failed)
    with pytest.raises(ResourceNotFoundError):
        await client.get(failed)


async def test_models_are_listed_and_searched(client: Any) -> None:
    models = {model.id: model for model in await client.models()}

    assert models[DEFAULT_MODEL].weights == "demo"
    assert models[DEFAULT_MODEL].fps == 16
    assert models[DEFAULT_MODEL].status in ("active", "inactive", "deploying")
    assert models[DEFAULT_MODEL].parameters["properties"]["width"]["maximum"] == 1280
    assert DEFAULT_MODEL not in {model.id for model in await client.models(search="no such words")}


async def test_loras_are_listed(client: Any) -> None:
    assert await client.loras() == await client.loras(model=DEFAULT_MODEL) == []
    with pytest.raises(ResourceNotFoundError, match="Model not found: nope"):
        await client.loras(model="nope")


async def test_refusals_are_typed(client: Any, connect: Callable[..., Any], tenant: ServerProcess) -> None:
    with pytest.raises(ResourceNotFoundError, match="Model not found: nope"):
        await client.enqueue("an ox", model="nope")
    with pytest.raises(InvalidParamsError, match="num_generations must be an integer between 1 and 4"):
        await client.enqueue("an ox", num_generations=5)
    with pytest.raises(UnauthenticatedError):
        await connect(tenant.url, "wrong").models()


def losing(kind: str) -> Any:
    """A transport that delivers every request, and loses the first response."""
    lost: list[bytes] = []

    class Sync(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if not lost:
                lost.append(response.read())
                raise httpx.ReadError("the connection broke")
            return response

    class Async(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if not lost:
                lost.append(await response.aread())
                raise httpx.ReadError("the connection broke")
            return response

    return Sync() if kind == "sync" else Async()


async def test_a_lost_response_makes_no_second_generation(
    connect: Callable[..., Any], client: Any, tenant: ServerProcess, key: str, kind: str
) -> None:
    (made,) = await connect(tenant.url, key, transport=losing(kind)).enqueue("an ox", height=0)

    assert [generation.id async for generation in client.history()] == [made.id]


async def test_a_client_closes_its_connections(tenant: ServerProcess, key: str) -> None:
    with Client(tenant.url, key) as client:
        client.models()
    with pytest.raises(RuntimeError, match="closed"):
        client.models()
    async with AsyncClient(tenant.url, key) as client:
        await client.models()
    with pytest.raises(RuntimeError, match="closed"):
        await client.models()


def test_the_two_clients_have_the_same_methods() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        found = inspect.getmembers(client, inspect.isfunction)
        return {name: list(inspect.signature(each).parameters) for name, each in found if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)
    assert {"generate", "enqueue", "follow", "wait", "cancel", "download", "history", "models"} <= methods(
        Client
    ).keys()


def test_parameters_and_defaults_are_the_servers(server: ServerProcess) -> None:
    schemas = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    # arguments of the methods, and parameters that the client does not use
    others = {"model", "prompt", "num_generations", "response_format"}

    # this server allows no webhooks
    known = set(schemas["EnqueueRequest"]["properties"]) | WEBHOOK_PARAMETERS.keys()
    assert set(Parameters.__annotations__) == known - others
    assert DEFAULT_MODEL == catalogue.DEFAULT_MODEL
