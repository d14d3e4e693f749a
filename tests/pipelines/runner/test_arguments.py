"""A notebook loads a model by its id, and the file of a video is checked before any work is done."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.core.errors import CatalogueError, DeviceError, EncodingError, RunnerError, WeightsNotFoundError
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress
from pipelines.core.request import VideoParams
from pipelines.runner.arguments import model_and_folder
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner

SMALL = VideoParams("an ox by a lake", height=64, width=96, num_frames=5, num_inference_steps=1, seed=7)


def test_paths_may_be_strings(weights_folder: Path, tmp_path: Path) -> None:
    spec = ModelSpec(repo=str(weights_folder), fps=16)
    located = Runner.load(spec, device="cpu", cache=str(tmp_path))
    named = Runner.load(spec, str(weights_folder), "cpu", cache=str(tmp_path))

    videos = [runner.run(SMALL, str(tmp_path / "video.mp4")).path.read_bytes() for runner in (located, named)]
    assert videos[0] == videos[1]


def test_an_id_stands_for_the_model_of_the_catalogue(tmp_path: Path) -> None:
    spec, folder = model_and_folder("wan-ai-wan2-2-t2v-a14b-diffusers", "~/weights")

    assert spec.repo == "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    assert (spec.fast, spec.loras) == (None, ())
    assert folder == Path("~/weights").expanduser()
    with pytest.raises(CatalogueError, match=r"There is no model 'wan'\. The catalogue has wan-ai-wan2-1-t2v-14b"):
        model_and_folder("wan", None)
    with pytest.raises(WeightsNotFoundError):
        model_and_folder(ModelSpec(repo=str(tmp_path / "none"), fps=16), None)


@pytest.mark.parametrize(
    ("name", "complaint"), [("none/video.mp4", "none is not a folder"), ("taken", "taken exists and is not a file")]
)
def test_the_files_folder_is_checked_before_the_work(
    demo_runner: Runner, name: str, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    reports: list[Progress] = []

    with pytest.raises(EncodingError, match=complaint):
        demo_runner.run(SMALL, tmp_path / name, Callbacks(on_progress=reports.append))
    assert reports == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/full")])
def test_only_a_file_is_replaced(demo_runner: Runner, make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    make(path)
    kind = path.lstat().st_mode

    with pytest.raises(EncodingError, match="exists and is not a file"):
        demo_runner.run(SMALL, path)
    assert path.lstat().st_mode == kind


@pytest.mark.parametrize("name", ["x" * 256, "a\0b"])
def test_an_impossible_name_is_refused_before_the_work(demo_runner: Runner, name: str, tmp_path: Path) -> None:
    reports: list[Progress] = []

    with pytest.raises(EncodingError, match="The video could not be written"):
        demo_runner.run(SMALL, tmp_path / name, Callbacks(on_progress=reports.append))
    assert reports == []


def test_a_runner_makes_one_video_at_a_time(weights_folder: Path, tmp_path: Path) -> None:
    runner = Runner.load(ModelSpec(repo=str(weights_folder), fps=16), device="cpu")
    refused: list[BaseException] = []

    def meanwhile(_: Progress) -> None:
        if not refused:
            for attempt in (lambda: runner.run(SMALL, tmp_path / "other.mp4"), lambda: runner.frames(SMALL)):
                with pytest.raises(RunnerError, match="one at a time") as refusal:
                    attempt()
                refused.append(refusal.value)

    disturbed = runner.run(SMALL, tmp_path / "video.mp4", Callbacks(on_progress=meanwhile)).path.read_bytes()
    assert len(refused) == 2
    assert runner.run(SMALL, tmp_path / "video.mp4").path.read_bytes() == disturbed
    runner.close()
    runner.close()
    with pytest.raises(RunnerError, match="closed"):
        runner.run(SMALL, tmp_path / "video.mp4")


@pytest.mark.parametrize("device", ["bogus", "cuda:999", "cuda:x"])
def test_a_device_that_is_not_there_is_named(weights_folder: Path, device: str) -> None:
    with pytest.raises(DeviceError, match=f"There is no device .?{device}"):
        Runner.load(ModelSpec(repo=str(weights_folder), fps=16), device=device)


def test_ffmpeg_is_looked_for_before_the_work(
    demo_runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Progress] = []
    with monkeypatch.context() as patch:
        patch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
        with pytest.raises(EncodingError, match="ffmpeg was not found"):
            demo_runner.run(SMALL, tmp_path / "video.mp4", Callbacks(on_progress=reports.append))

    assert reports == []
    assert demo_runner.run(replace(SMALL, seed=8), tmp_path / "video.mp4").num_frames == 5
