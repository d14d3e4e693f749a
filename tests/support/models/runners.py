"""Runners with small weights on the CPU, and the small video they make."""

from pathlib import Path
from typing import Any

from pipelines.core.model import ModelSpec
from pipelines.core.request import VideoParams
from pipelines.planning.layout import Layout
from pipelines.runner.oom_fallback import OutOfMemoryFallback
from pipelines.runner.runner import Runner

SMALL_VIDEO = VideoParams("an ox by a lake", " ", 64, 96, 9, 4, 5.0, 7)


def small_runner(
    folder: Path, cache: Path, layout: Layout | None = None, loras_dir: Path | None = None, **spec: Any
) -> Runner:
    model = ModelSpec("small", fps=16, **spec)
    return Runner.load(model, folder, "cpu", layout=layout, cache=cache, loras_dir=loras_dir)


def video_bytes(model: Runner | OutOfMemoryFallback, path: Path, params: VideoParams = SMALL_VIDEO) -> bytes:
    return model.render(params, path).finish().path.read_bytes()


# the published shapes
