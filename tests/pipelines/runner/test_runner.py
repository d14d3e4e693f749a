"""A prompt becomes a video file of the exact size and length, with the same bytes for a seed; it can be cancelled."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.core.errors import EncodingError, GenerationCancelled, NonFiniteOutputError
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import VideoParams
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.denoising import flow_shift_at
from tests.pipelines.conftest import both_dtypes
from tests.support.video import frame_rate, read_video

pytestmark = both_dtypes

SMALL = VideoParams(
    prompt="an ox by a lake",
    negative_prompt=" ",
    height=64,
    width=96,
    num_frames=5,
    num_inference_steps=3,
    guidance_scale=5.0,
    seed=7,
)


def run(runner: Runner, folder: Path, **changes: object) -> bytes:
    path = folder / "video.mp4"
    runner.run(replace(SMALL, **changes), path)  # type: ignore[arg-type]
    return path.read_bytes()


@pytest.mark.parametrize("layout", ["demo_runner", "wan21_runner"])
@pytest.mark.parametrize(
    ("width", "height", "num_frames"),
    [(1, 1, 1), (2, 720, 1), (1280, 1, 2), (1279, 719, 1), (33, 17, 6), (64, 64, 120), (832, 480, 1)],
)
def test_every_size_and_length_is_exact(
    layout: str, width: int, height: int, num_frames: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    runner: Runner = request.getfixturevalue(layout)
    video = runner.run(
        replace(SMALL, width=width, height=height, num_frames=num_frames, num_inference_steps=1),
        tmp_path / "video.mp4",
    )

    even = (height + height % 2, width + width % 2)
    assert read_video(video.path).shape == (num_frames, *even, 3)
    assert (video.num_frames, video.height, video.width) == (num_frames, *even)
    assert frame_rate(video.path) == video.fps == 16


@pytest.mark.parametrize("steps", [1, 100])
@pytest.mark.parametrize("guidance", [0, 1, 10])
def test_extreme_steps_and_guidance_work(demo_runner: Runner, tmp_path: Path, steps: int, guidance: float) -> None:
    assert run(demo_runner, tmp_path, num_inference_steps=steps, guidance_scale=guidance)


def test_a_seed_gives_the_same_bytes_even_after_reloading(
    demo_runner: Runner, weights_folder: Path, tmp_path: Path
) -> None:
    first = run(demo_runner, tmp_path)
    run(demo_runner, tmp_path, seed=8, prompt="something else", width=64)
    anew = Runner.load(ModelSpec("demo", fps=16), weights_folder, "cpu")

    assert run(demo_runner, tmp_path) == first
    assert run(anew, tmp_path) == first
    assert run(demo_runner, tmp_path, seed=2**53 - 1) != first


def test_prompt_negative_prompt_and_guidance_all_have_an_effect(demo_runner: Runner, tmp_path: Path) -> None:
    videos = {
        run(demo_runner, tmp_path, **changes)
        for changes in (
            {},
            {"prompt": "一头牛在湖边"},
            {"negative_prompt": "blurry"},
            {"guidance_scale": 1.0},
            {"num_inference_steps": 4},
        )
    }
    assert len(videos) == 5


def test_without_guidance_the_negative_prompt_is_not_encoded(demo_runner: Runner, tmp_path: Path) -> None:
    plain = run(demo_runner, tmp_path, guidance_scale=1.0)

    assert run(demo_runner, tmp_path, guidance_scale=0.0, negative_prompt="blurry") == plain


@pytest.mark.parametrize("prompt", ["", "🐂 \x00 nul", "word " * 2000, "</s> <extra_id_5>", "\u202eright to left"])
def test_unusual_prompts_work(demo_runner: Runner, tmp_path: Path, prompt: str) -> None:
    assert run(demo_runner, tmp_path, prompt=prompt, num_inference_steps=1)


def test_progress_reports_every_step_and_never_decreases(demo_runner: Runner, tmp_path: Path) -> None:
    seen: list[Progress] = []

    demo_runner.run(replace(SMALL, num_frames=13), tmp_path / "video.mp4", Callbacks(seen.append))

    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert [p.step for p in seen if p.stage is Stage.DENOISE] == [0, 1, 2, 3]
    assert [p.step for p in seen if p.stage is Stage.DECODE][:4] == [1, 2, 3, 4]


def test_a_video_can_be_made_while_the_previous_file_is_finished(demo_runner: Runner, tmp_path: Path) -> None:
    first, second = SMALL, replace(SMALL, seed=8)
    expected = [run(demo_runner, tmp_path), run(demo_runner, tmp_path, seed=8)]

    rendered = demo_runner.render(first, tmp_path / "first.mp4")
    assert not (tmp_path / "first.mp4").exists()
    demo_runner.run(second, tmp_path / "second.mp4")
    with ThreadPoolExecutor(1) as thread:
        video = thread.submit(rendered.finish).result()

    assert [(tmp_path / name).read_bytes() for name in ("first.mp4", "second.mp4")] == expected
    assert video.stats.steps_computed == first.num_inference_steps


def test_a_file_that_cannot_be_finished_is_an_error_and_leaves_nothing(
    demo_runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rendered = demo_runner.render(SMALL, tmp_path / "video.mp4")
    monkeypatch.setattr("pipelines.core.files.sync", full)

    with pytest.raises(EncodingError, match="No space left"):
        rendered.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", [Stage.PROMPT, Stage.DENOISE, Stage.DECODE])
def test_a_cancellation_takes_effect_within_a_step_and_affects_nothing_else(
    demo_runner: Runner, tmp_path: Path, stage: Stage
) -> None:
    expected = run(demo_runner, tmp_path)
    (tmp_path / "video.mp4").unlink()
    seen: list[Progress] = []

    with pytest.raises(GenerationCancelled):
        demo_runner.run(
            replace(SMALL, width=64, num_frames=9, num_inference_steps=5),
            tmp_path / "video.mp4",
            Callbacks(seen.append, lambda: any(progress.stage is stage for progress in seen)),
        )

    assert not list(tmp_path.iterdir())
    after = [progress for progress in seen if progress.stage is stage][1:]
    assert len(after) <= 1
    assert run(demo_runner, tmp_path) == expected


def test_nan_is_an_error_and_affects_nothing_else(demo_runner: Runner, tmp_path: Path) -> None:
    expected = run(demo_runner, tmp_path)
    (tmp_path / "video.mp4").unlink()
    transformer = demo_runner._loaded.pipe.transformer
    poison = transformer.register_forward_hook(lambda _m, _i, out: (torch.full_like(out[0], float("nan")),))
    try:
        with pytest.raises(NonFiniteOutputError, match=r"so no video was made\. Another seed") as raised:
            run(demo_runner, tmp_path)
        assert "LoRA" not in str(raised.value)
    finally:
        poison.remove()

    assert not list(tmp_path.iterdir())
    assert run(demo_runner, tmp_path) == expected


def test_the_flow_shift_follows_the_size(demo_runner: Runner, weights_folder: Path, tmp_path: Path) -> None:
    shifted = Runner.load(ModelSpec("demo", fps=16, flow_shift={"480p": 3.0, "720p": 5.0}), weights_folder, "cpu")
    by_hand = Runner.load(ModelSpec("demo", fps=16, flow_shift={"480p": 5.0, "720p": 5.0}), weights_folder, "cpu")
    large = {"width": 1280, "height": 720, "num_frames": 1}

    # the demo scheduler's shift is 3
    assert run(shifted, tmp_path) == run(demo_runner, tmp_path)
    assert run(shifted, tmp_path, **large) == run(by_hand, tmp_path, **large)
    assert run(shifted, tmp_path, **large) != run(demo_runner, tmp_path, **large)
    assert run(shifted, tmp_path) == run(demo_runner, tmp_path)


@pytest.mark.parametrize(
    ("width", "height", "shift"), [(832, 480, 3.0), (480, 832, 3.0), (1, 1, 3.0), (1280, 720, 5.0), (1024, 640, 5.0)]
)
def test_a_size_takes_the_flow_shift_of_the_nearer_resolution(width: int, height: int, shift: float) -> None:
    geometry = Geometry.fit(width, height, 81, Grid.of(8, (2, 2), 4))

    assert flow_shift_at(geometry, {"480p": 3.0, "720p": 5.0}) == shift
    assert flow_shift_at(geometry, None) is None


def test_the_delivered_frame_is_the_centre_of_the_generated_one(demo_runner: Runner, tmp_path: Path) -> None:
    full = demo_runner.run(replace(SMALL, width=96, height=64), tmp_path / "full.mp4")
    cropped = demo_runner.run(replace(SMALL, width=80, height=50), tmp_path / "cropped.mp4")

    whole, part = read_video(full.path).astype(int), read_video(cropped.path)
    # the codec is lossy: the right position is the one with the least difference
    differences = {
        (top, left): np.abs(whole[:, top : top + 50, left : left + 80] - part).mean()
        for top in range(15)
        for left in range(17)
    }
    assert min(differences, key=lambda place: differences[place]) == (7, 8)


def test_a_closed_runner_holds_no_weights(weights_folder: Path) -> None:
    runner = Runner.load(ModelSpec("demo", fps=16), weights_folder, "cpu")
    pipe = runner._loaded.pipe

    runner.close()

    assert not any(isinstance(value, torch.nn.Module) for value in vars(pipe).values())
