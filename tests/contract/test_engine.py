"""What every engine promises: a real worker process, loaded, run, cancelled, killed and hung."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from pipelines.core.progress import Stage
from pipelines.models.catalogue import CatalogueEntry, read_catalogue
from server.engine.interface import (
    LoadFailedError,
    RunCancelledError,
    RunSuspendedError,
    WorkerOptions,
    WorkerStartError,
)
from server.engine.protocol import Previewed, Progressed, RunReport
from server.engine.ray.options import BRIDGE, BridgeOptions, bridge_environment
from server.engine.subprocess.engine import SubprocessEngine
from server.engine.subprocess.environment import worker_environment
from server.engine.subprocess.template import WorkerTemplate
from tests.server.conftest import eventually
from tests.support.ray_cluster import ray_cluster
from tests.support.runs import LONG, PARAMS, job, make, run, start
from tests.support.video import read_video
from tests.support.worker_template import shared_template

ENTRY = next(iter(read_catalogue().values()))
pytestmark = pytest.mark.asyncio(loop_scope="module")

_RAY_DEVICES = 8
"""One for each engine of a module's tests."""

EngineFactory = Callable[..., SubprocessEngine]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["started", "forked", "ray"])
async def make_engine(
    tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, request: pytest.FixtureRequest
) -> AsyncIterator[EngineFactory]:
    """Make engines of each kind, on the demo weights; they are closed with the last test."""
    folder = tmp_path_factory.mktemp("engine")
    engines = []
    template = WorkerTemplate(worker_environment("cpu"), shared_template()) if request.param == "forked" else None
    stack = ExitStack()
    cluster = None
    if request.param == "ray":
        cluster = stack.enter_context(ray_cluster(tmp_path_factory.mktemp("hosts"), devices=_RAY_DEVICES))

    def make(*, demo: bool = True, cancel_grace: float = 20, silence: float = 60, **options: Any) -> SubprocessEngine:
        worker = WorkerOptions(
            device="cpu",
            artifacts=str(folder / "videos"),
            checkpoints=str(folder / "checkpoints"),
            previews=str(folder / "previews"),
            inputs=str(folder / "inputs"),
            cache=str(weights_folder.parent),
            temporary=str(folder / f"tmp-{len(engines)}"),
            demo=demo,
            **options,
        )
        for name in ("videos", "checkpoints", "previews"):
            (folder / name).mkdir(exist_ok=True)
        limits: dict[str, Any] = {"cancel_grace": cancel_grace, "silence": silence}
        if cluster is not None:
            ((host, node_id),) = cluster.nodes.items()
            at = {"address": cluster.address, "host": host, "node_id": node_id, "index": len(engines)}
            worker = BridgeOptions(**worker.model_dump(), **at)
            limits |= {"worker": BRIDGE, "environment": bridge_environment(cluster.address, None)}
        engines.append(SubprocessEngine("this machine", worker, template=template, **limits))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()
    if template is not None:
        await template.close()
    stack.close()


@pytest.fixture(scope="module")
def shared(make_engine: EngineFactory) -> SubprocessEngine:
    """One engine for all: its worker takes seconds to start, and does so again only after a test that ended it."""
    return make_engine(preview_interval=1e-9)


@pytest.fixture(scope="module")
def other_weights(make_engine: EngineFactory) -> SubprocessEngine:
    """One engine for weights that are not the demo's, without pictures."""
    return make_engine(demo=False, preview_interval=0)


@pytest_asyncio.fixture(loop_scope="module")
async def engine(shared: SubprocessEngine) -> SubprocessEngine:
    """An engine with the demo model loaded."""
    await shared.load(ENTRY)
    return shared


@pytest.fixture
def videos(shared: SubprocessEngine) -> Path:
    """Where its videos are; there is none yet, and no checkpoint."""
    folder = Path(shared._options.artifacts)
    for each in (folder, shared._options.checkpoints):
        for file in Path(each).iterdir():
            file.unlink()
    return folder


async def test_loading_starts_a_worker_and_tells_how_far_it_is(shared: SubprocessEngine) -> None:
    engine = shared
    await engine.close()
    assert engine.state.model_id is None
    loading = asyncio.create_task(engine.load(ENTRY))
    seen = set()
    while not loading.done():
        seen.add((engine.state.model_id, engine.state.is_ready))
        await asyncio.sleep(0.02)

    ready = await loading
    assert ready.model_id == ENTRY.id
    assert ready.fingerprint["device"] == "cpu"
    assert engine.state.is_ready
    assert engine.state.device == "this machine"
    assert (ENTRY.id, False) in seen
    assert engine.state.pid is not None
    assert (await engine.load(ENTRY)).fingerprint == ready.fingerprint


async def test_a_run_leaves_its_file_and_tells_every_step(engine: SubprocessEngine, videos: Path) -> None:
    reports = await run(engine, job())

    assert read_video(videos / "g.1.mp4").shape == (5, 64, 64, 3)
    assert [report.step for report in reports if report.stage is Stage.DENOISE] == [0, 1, 2, 3]
    assert reports[-1].fraction == 1.0
    assert {(report.generation_id, report.attempt) for report in reports} == {("g", 1)}
    # what the run took is recorded, its file included
    assert engine.durations.totals[-1] == reports[-1].seconds
    assert engine.durations.runs_of_model(ENTRY.id, PARAMS)[-1].step > 0


async def test_a_run_shows_its_steps_in_a_file_before_it_tells_of_them(engine: SubprocessEngine) -> None:
    reported: list[tuple[str, int]] = []
    pictures = []

    def note(report: RunReport) -> None:
        if isinstance(report, Previewed):
            pictures.append(Image.open(Path(engine._options.previews) / "seen.jpg").copy().size)
        if isinstance(report, Previewed) or (isinstance(report, Progressed) and report.stage is Stage.DENOISE):
            reported.append((report.kind, report.step))

    await make(engine, job(generation_id="seen"), note)

    both = [(kind, step) for step in (1, 2, 3) for kind in ("previewed", "progressed")]
    assert reported == [("progressed", 0), *both]
    assert pictures == [(64, 64)] * 3


async def test_without_an_interval_there_is_no_picture(other_weights: SubprocessEngine, weights_folder: Path) -> None:
    engine = other_weights
    await engine.load(CatalogueEntry(api=ENTRY.api, model=replace(ENTRY.model, repo=str(weights_folder))))
    reports: list[RunReport] = []

    wanted = job(generation_id="unseen")

    await make(engine, wanted, reports.append)

    assert not [report for report in reports if isinstance(report, Previewed)]
    assert not os.path.exists(f"{engine._options.previews}/{wanted.preview}")  # noqa: ASYNC240, PTH110


async def test_a_cancel_stops_within_a_step_and_the_next_run_is_unharmed(
    engine: SubprocessEngine, videos: Path
) -> None:
    await run(engine, job(generation_id="before"))
    pid = engine.state.pid
    running, reports = await start(engine, job(LONG))

    await engine.cancel("g", 2)
    assert not running.done()
    steps_then = reports[-1].step
    await engine.cancel("g", 1)
    with pytest.raises(RunCancelledError):
        await running

    # one step may have been under way, and another one may have begun before the order arrived
    assert reports[-1].step - steps_then <= 2
    assert not (videos / "g.1.mp4").exists()
    await run(engine, job(generation_id="after"))
    assert engine.state.pid == pid
    before, after = ((videos / f"{name}.1.mp4").read_bytes() for name in ("before", "after"))
    assert before == after


async def test_prompts_are_encoded_beside_the_run_that_is_going_on(engine: SubprocessEngine) -> None:
    await engine.prepare(["without a run nothing is done"])
    await run(engine, job())
    running, reports = await start(engine, job(LONG))

    await engine.prepare(["what comes next"])
    steps = reports[-1].step
    await eventually(lambda: reports[-1].step >= steps + 4)
    await engine.cancel("g", 1)
    with pytest.raises(RunCancelledError):
        await running
    done = await make(engine, job(), lambda _: None)

    # its own prompts were cached
    assert (done.stats.prompts_encoded, done.stats.prompts_cached) == (1, 1)


async def test_a_suspended_run_goes_on_as_another_attempt(engine: SubprocessEngine, videos: Path) -> None:
    params = replace(LONG, num_inference_steps=30)
    await run(engine, job(params, generation_id="whole"))
    running, _ = await start(engine, job(params))

    await engine.suspend("g", 2)
    assert not running.done()
    await engine.suspend("g", 1)
    with pytest.raises(RunSuspendedError):
        await running
    reports = await run(engine, job(params, attempt=2, resume_from="g.1.ckpt"))

    steps = [report.step for report in reports if report.stage is Stage.DENOISE]
    assert steps == list(range(steps[0], params.num_inference_steps + 1))
    assert steps[0] > 0
    assert reports[0].fraction > 0
    assert reports[0].seconds > 0
    whole, resumed = ((videos / name).read_bytes() for name in ("whole.1.mp4", "g.2.mp4"))
    assert resumed == whole


async def test_weights_that_are_not_there_are_a_sentence_and_the_worker_lives(other_weights: SubprocessEngine) -> None:
    engine = other_weights
    if isinstance(engine._options, BridgeOptions):
        pytest.skip("on a cluster another host may have them: test_ray_engine")
    missing = CatalogueEntry(api=ENTRY.api, model=replace(ENTRY.model, repo="/nowhere/at/all"))

    for _ in range(2):
        with pytest.raises(LoadFailedError, match="No weights of /nowhere/at/all"):
            await engine.load(missing)
        assert engine.state.error is not None
        assert engine.state.model_id is None
    assert engine.state.pid is not None


async def test_unloading_frees_the_model_and_it_can_be_loaded_again(engine: SubprocessEngine) -> None:
    pid = engine.state.pid
    await engine.unload()
    assert engine.state.model_id is None

    await engine.load(ENTRY)
    await run(engine, job())
    assert engine.state.pid == pid


async def test_another_protocol_is_refused(make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.engine.subprocess.engine.VERSION", 99)

    with pytest.raises(LoadFailedError, match=r"speaks protocol \d+, the server 99"):
        await make_engine().load(ENTRY)


async def test_a_worker_that_cannot_be_started_is_told_apart(
    make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()

    def refuse(*_args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", refuse)
        with pytest.raises(WorkerStartError, match=r"^No worker could be started: Too many open files\.$"):
            await engine.load(ENTRY)
    assert engine.state.error == "No worker could be started: Too many open files."

    await engine.load(ENTRY)
    assert engine.state.error is None
