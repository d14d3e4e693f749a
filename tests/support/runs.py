"""Runs of an engine, for tests."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pipelines.core.progress import Stage
from pipelines.core.request import VideoParams
from server.engine.interface import Engine
from server.engine.protocol import Done, Progressed, Run, RunReport

PARAMS = VideoParams("an ox", " ", 64, 64, 5, 3, 5.0, 7)
LONG = replace(PARAMS, num_inference_steps=100, width=256, height=256)


def job(
    params: VideoParams = PARAMS, generation_id: str = "g", attempt: int = 1, resume_from: str | None = None
) -> Run:
    """The order for a run, with the usual storage keys."""
    return Run(
        generation_id=generation_id,
        attempt=attempt,
        params=params,
        artifact=f"{generation_id}.{attempt}.mp4",
        checkpoint=f"{generation_id}.{attempt}.ckpt",
        preview=f"{generation_id}.jpg",
        resume_from=resume_from,
    )


async def make(engine: Engine, wanted: Run, on_report: Callable[[RunReport], None]) -> Done:
    """Make a video, with its file."""
    finish = await engine.run(wanted, on_report)
    return await finish()


async def run(engine: Engine, wanted: Run) -> list[Progressed]:
    reports: list[RunReport] = []
    await make(engine, wanted, reports.append)
    return [report for report in reports if isinstance(report, Progressed)]


async def start(engine: Engine, wanted: Run) -> tuple["asyncio.Task[object]", list[Progressed]]:
    """Begin a run and return once it denoises."""
    reports: list[Progressed] = []
    denoising = asyncio.Event()

    def note(report: RunReport) -> None:
        if not isinstance(report, Progressed):
            return
        reports.append(report)
        if report.stage is Stage.DENOISE and report.step >= 1:
            denoising.set()

    running = asyncio.create_task(make(engine, wanted, note))
    async with asyncio.timeout(60):
        await denoising.wait()
    return running, reports
