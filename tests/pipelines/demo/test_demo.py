"""The demo weights are complete and small, and show what the prompt asks for."""

from pathlib import Path

import pytest

from demo_training.judge import judge
from pipelines.core.model import ModelSpec
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.hub.folder import check
from pipelines.runner.runner import Runner
from tests.support.video import read_video


@pytest.fixture(scope="module")
def trained() -> Runner:
    return Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")


def test_they_are_a_complete_pipeline_under_25_megabytes() -> None:
    check(demo_folder(), "WanPipeline")

    files = [path for path in demo_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert (demo_folder() / "README.md").is_file()


@pytest.mark.parametrize(
    ("prompt", "background", "colour", "motion"),
    [
        ("A red circle moving left on a blue background", "blue", "red", "left"),
        ("黄色背景上，一个绿色的圆环向下移动", "yellow", "green", "down"),
    ],
)
def test_a_video_shows_what_the_prompt_asks_for(
    prompt: str, background: str, colour: str, motion: str, trained: Runner, tmp_path: Path
) -> None:
    params = VideoParams(prompt, " ", 240, 416, 33, 16, 5.0, 1)

    seen = judge(read_video(trained.run(params, tmp_path / "video.mp4").path))

    assert (seen.background, seen.colour, seen.motion) == (background, colour, motion)
