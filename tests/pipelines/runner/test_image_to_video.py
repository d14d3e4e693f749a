"""A video that begins with an image is the library's own, through every way in which this project computes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from pipelines.core.errors import GenerationCancelled, GenerationSuspended, InputImageError
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import StepCaching, VideoParams
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.conditioning.images import Images, image_digest
from tests.pipelines.conftest import both_dtypes
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.video import psnr

pytestmark = both_dtypes

SPEC = ModelSpec("5b", fps=24)
IMAGE = gradient(96, 64)
PARAMS = VideoParams("an ox by a lake", "blurry", 64, 96, 9, 6, 5.0, 7, image=image_digest(IMAGE))


@pytest.fixture(scope="module")
def runner(processor: str, ti2v_5b: Path) -> Runner:
    return Runner.load(SPEC, ti2v_5b, "cpu")


def video(runner: Runner, folder: Path, callbacks: Callbacks = NO_CALLBACKS, params: VideoParams = PARAMS) -> bytes:
    return runner.render(params, folder / "video.mp4", callbacks, IMAGE).finish().path.read_bytes()


def test_the_latents_equal_the_librarys(runner: Runner) -> None:
    loaded, stages = runner._loaded, runner._stages
    assert loaded.image_pipe is not None
    parts = {**loaded.image_pipe.components, "scheduler": loaded.samplers.make()}
    pipe = WanImageToVideoPipeline(**parts, expand_timesteps=True)
    with torch.no_grad():
        negative, prompt = (stages._prompts.encode(text) for text in (PARAMS.negative_prompt, PARAMS.prompt))
        geometry = stages.geometry(PARAMS)
        guidance = stages._guidance(PARAMS, negative)
        condition = stages.condition(geometry, stages.fit_images(PARAMS, geometry, Images(IMAGE)))
        made = stages._latents(prompt, negative, PARAMS, geometry, guidance, condition)
        plain = pipe(
            image=IMAGE,
            prompt=PARAMS.prompt,
            negative_prompt=PARAMS.negative_prompt,
            height=64,
            width=96,
            num_frames=9,
            num_inference_steps=6,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type="latent",
        ).frames

    assert torch.equal(made, plain)
    assert guidance.passes_computed == 12


@torch.no_grad()
def test_the_first_frame_is_the_image_as_the_vae_shows_it(runner: Runner) -> None:
    vae = runner._loaded.vae
    pixels = torch.from_numpy(np.array(IMAGE)).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    shown = vae.decode(vae.encode(pixels.to(vae.dtype)).latent_dist.mode()).sample[0, :, 0]
    expected = ((shown.float() / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()

    frames = runner.frames(PARAMS, IMAGE).frames
    other = runner.frames(replace(PARAMS, seed=8), IMAGE).frames

    assert np.abs(frames[0] - expected).max() <= (1 if vae.dtype is torch.float32 else 6)
    assert (frames[0] == other[0]).all()
    assert (frames[-1] != other[-1]).any()


def test_another_image_or_none_gives_another_video(runner: Runner, tmp_path: Path) -> None:
    text = replace(PARAMS, image=None)
    before = runner.run(text, tmp_path / "text.mp4").path.read_bytes()
    inverted = Image.eval(IMAGE, lambda value: 255 - value)

    videos = {
        video(runner, tmp_path),
        runner.run(text, tmp_path / "other.mp4", image=inverted).path.read_bytes(),
        before,
    }

    assert len(videos) == 3
    # an image leaves nothing behind for the next video
    assert runner.run(text, tmp_path / "text.mp4").path.read_bytes() == before
    assert runner.run(text, tmp_path / "named.mp4", image=IMAGE).path.read_bytes() == video(runner, tmp_path)


@pytest.mark.parametrize("where", [Residence.STREAMED, Residence.DISK])
def test_streamed_weights_make_the_same_video(where: Residence, runner: Runner, ti2v_5b: Path, tmp_path: Path) -> None:
    layout = Layout(transformer=where, text_encoder=where)
    streamed = Runner.load(SPEC, ti2v_5b, "cpu", layout=layout, cache=tmp_path)

    assert video(streamed, tmp_path) == video(runner, tmp_path)


def test_batched_guidance_makes_nearly_the_same_video(runner: Runner, ti2v_5b: Path, tmp_path: Path) -> None:
    batched = Runner.load(SPEC, ti2v_5b, "cpu", layout=Layout(batched=True), cache=tmp_path)

    assert psnr(video(batched, tmp_path), video(runner, tmp_path)) > 40


@pytest.mark.parametrize("step", [1, 4, 6])
@pytest.mark.parametrize("level", [StepCaching.EXACT, StepCaching.FAST])
def test_a_suspended_generation_ends_in_the_same_video(
    runner: Runner, step: int, level: StepCaching, tmp_path: Path
) -> None:
    params = replace(PARAMS, step_cache=level)
    whole = video(runner, tmp_path, params=params)
    path = tmp_path / "half.ckpt"
    done = 0

    def report(progress: Progress) -> None:
        nonlocal done
        done = progress.step if progress.stage is Stage.DENOISE else 0

    with pytest.raises(GenerationSuspended):
        video(runner, tmp_path, Callbacks(report, checkpoint=Checkpoint(path, 1000.0, lambda: done >= step)), params)
    resumed = runner.render(
        params, tmp_path / "video.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)), IMAGE
    ).finish()

    assert resumed.path.read_bytes() == whole
    assert resumed.stats.steps_computed + resumed.stats.steps_skipped == 6 - step
    assert video(runner, tmp_path, params=params) == whole


def test_a_cancelled_generation_does_not_affect_the_next(runner: Runner, tmp_path: Path) -> None:
    text = replace(PARAMS, image=None)
    expected = runner.run(text, tmp_path / "text.mp4").path.read_bytes(), video(runner, tmp_path)
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(GenerationCancelled):
        video(runner, tmp_path, Callbacks(cancelled=cancelled))

    assert (runner.run(text, tmp_path / "text.mp4").path.read_bytes(), video(runner, tmp_path)) == expected


def test_a_model_for_text_alone_refuses_an_image(wan21_runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(InputImageError, match="makes videos from text only"):
        video(wan21_runner, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_last_image_is_refused(runner: Runner, tmp_path: Path) -> None:
    # diffusers ignores it
    with pytest.raises(InputImageError, match="This model takes no last image"):
        runner.run(PARAMS, tmp_path / "video.mp4", image=IMAGE, last_image=IMAGE)


def test_an_image_that_is_not_the_requests_is_refused(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(InputImageError, match="is not the request's"):
        runner.render(PARAMS, tmp_path / "video.mp4", image=gradient(64, 64))
    with pytest.raises(InputImageError, match="image is missing"):
        runner.render(PARAMS, tmp_path / "video.mp4")
