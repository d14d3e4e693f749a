"""Weights for text alone begin a video with an image where a request asks for it, by replacing its first frame."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.core.errors import GenerationCancelled, GenerationSuspended, InputImageError
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import ImageMode, Sampler, StepCaching, VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.generation_stages import Inputs
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.conditioning.images import Images, fitted, image_digest
from pipelines.stages.conditioning.known_latents import KnownFirstFrame, encode_first_frame
from tests.pipelines.conftest import both_dtypes
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.models.wan_image import i2v_folder
from tests.support.video import psnr

pytestmark = both_dtypes

SPEC = ModelSpec("small", fps=16)
IMAGE = gradient(96, 64)
TEXT = VideoParams("an ox by a lake", "blurry", 64, 96, 9, 6, 5.0, 7)
PARAMS = replace(TEXT, image=image_digest(IMAGE), image_mode=ImageMode.FIRST_FRAME)


@pytest.fixture(scope="module", params=["wan21", "a14b"])
def runner(processor: str, request: pytest.FixtureRequest) -> Runner:
    return Runner.load(SPEC, request.getfixturevalue(request.param), "cpu")


def video(runner: Runner, folder: Path, callbacks: Callbacks = NO_CALLBACKS, params: VideoParams = PARAMS) -> bytes:
    return runner.render(params, folder / "video.mp4", callbacks, IMAGE).finish().path.read_bytes()


@torch.no_grad()
def latents_of(runner: Runner, params: VideoParams) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The clean latents of the image, those of the video, and what the transformers saw."""
    stages, seen = runner._stages, []
    geometry, guidance = stages.geometry(params), stages._guidance(params, None)
    known = stages.known(params, geometry, Inputs(Images(IMAGE)))
    hooks = [
        denoiser.register_forward_pre_hook(
            lambda _, __, inputs: seen.append(inputs["hidden_states"].float()), with_kwargs=True
        )
        for denoiser in runner._loaded.denoisers
    ]
    prompt = stages._prompts.encode(params.prompt)
    made = stages._latents(prompt, None, params, geometry, guidance, None, known)
    for hook in hooks:
        hook.remove()
    return encode_first_frame(runner._loaded.pipe, IMAGE, geometry), made, seen


@pytest.mark.parametrize("sampler", Sampler)
def test_each_step_sees_the_image_at_its_noise_level(sampler: Sampler, runner: Runner) -> None:
    params = replace(PARAMS, guidance_scale=1.0, sampler=sampler)
    scheduler = runner._loaded.samplers.make(sampler)
    scheduler.set_timesteps(6)

    clean, made, seen = latents_of(runner, params)

    noise = torch.randn(made.shape, generator=torch.Generator("cpu").manual_seed(7))
    tolerance = 1e-5 if runner._loaded.vae.dtype is torch.float32 else 0.05
    assert len(seen) == 6
    assert torch.equal(seen[0][:, :, 1:], noise[:, :, 1:].to(runner._loaded.denoisers[0].dtype).float())
    for sigma, inputs in zip(scheduler.sigmas, seen, strict=False):
        expected = (1 - float(sigma)) * clean + float(sigma) * noise[:, :, :1]
        torch.testing.assert_close(inputs[:, :, :1], expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(made[:, :, :1], clean)
    assert clean.shape == (1, 16, 1, 8, 12)


def test_other_frames_depend_on_the_image(runner: Runner, tmp_path: Path) -> None:
    inverted = Image.eval(IMAGE, lambda value: 255 - value)
    text = runner.run(TEXT, tmp_path / "text.mp4").path.read_bytes()

    asked = replace(TEXT, image_mode=ImageMode.FIRST_FRAME)
    one, other = (runner.frames(asked, image).frames.astype(int) for image in (IMAGE, inverted))

    assert (one[0] != other[0]).any()
    assert (one[-1] != other[-1]).any()
    # nothing is left behind for the next video
    assert runner.run(TEXT, tmp_path / "text.mp4").path.read_bytes() == text


@pytest.mark.parametrize("size", [(96, 64), (80, 56)])
def test_the_demos_first_frame_is_the_image(size: tuple[int, int], tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(demo_folder(), folder)
    # whether or not they were trained for images, here they are weights for text
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"expand_timesteps": False}))
    demo = Runner.load(ModelSpec("demo", fps=16), folder, "cpu")
    width, height = size
    scene = VideoParams("a red ball on green grass", " ", 64, 96, 1, 10, 5.0, 3)
    image = Image.fromarray(demo.frames(scene).frames[0])
    params = replace(scene, width=width, height=height, num_frames=9, seed=11, image_mode=ImageMode.FIRST_FRAME)

    frames = demo.frames(params, image).frames.astype(float)
    text = demo.frames(replace(params, image_mode=None)).frames.astype(float)

    geometry = demo._stages.geometry(params)
    expected = np.asarray(fitted(image, geometry))[geometry.crop].astype(float)
    assert frames.shape == (9, height, width, 3)
    assert distance(frames[0], expected) >= 30
    assert distance(text[0], expected) < 25


def distance(one: Any, other: Any) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((one - other) ** 2)))


@pytest.mark.parametrize("where", [Residence.STREAMED, Residence.DISK])
def test_streamed_weights_make_the_same_video(where: Residence, runner: Runner, wan21: Path, tmp_path: Path) -> None:
    resident = Runner.load(SPEC, wan21, "cpu")
    streamed = Runner.load(SPEC, wan21, "cpu", layout=Layout(transformer=where, text_encoder=where), cache=tmp_path)

    # a processor computes on the map itself, which is not aligned: some round otherwise there
    assert psnr(video(streamed, tmp_path), video(resident, tmp_path)) > 40


def test_batched_guidance_makes_nearly_the_same_video(wan21: Path, wan21_runner: Runner, tmp_path: Path) -> None:
    batched = Runner.load(SPEC, wan21, "cpu", layout=Layout(batched=True), cache=tmp_path)
    asked = replace(TEXT, image_mode=ImageMode.FIRST_FRAME)

    one, other = (each.frames(asked, IMAGE).frames.astype(float) for each in (wan21_runner, batched))

    # 40 dB
    assert ((one - other) ** 2).mean() < 255**2 / 10**4


SUSPENDED: list[tuple[int, StepCaching, Sampler]] = [
    (1, StepCaching.EXACT, Sampler.UNIPC),
    (3, StepCaching.EXACT, Sampler.DPM),
    (4, StepCaching.FAST, Sampler.EULER),
    (6, StepCaching.EXACT, Sampler.UNIPC),
]


@pytest.mark.parametrize(("step", "level", "sampler"), SUSPENDED)
def test_a_suspended_generation_ends_in_the_same_video(
    runner: Runner, step: int, level: StepCaching, sampler: Sampler, tmp_path: Path
) -> None:
    params = replace(PARAMS, step_cache=level, sampler=sampler)
    whole = video(runner, tmp_path, params=params)
    path, done = tmp_path / "half.ckpt", 0

    def report(progress: Progress) -> None:
        nonlocal done
        done = progress.step if progress.stage is Stage.DENOISE else 0

    with pytest.raises(GenerationSuspended):
        video(runner, tmp_path, Callbacks(report, checkpoint=Checkpoint(path, 1000.0, lambda: done >= step)), params)
    state = Checkpoint(path, 1000.0).load(runner._latents_depend_on(runner._effective(params)))
    assert state is not None
    resumed = runner.render(
        params, tmp_path / "video.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)), IMAGE
    ).finish()

    # what is saved has the image in it already
    scheduler = runner._loaded.samplers.make(sampler)
    scheduler.set_timesteps(6)
    with torch.no_grad():
        known = KnownFirstFrame(encode_first_frame(runner._loaded.pipe, IMAGE, runner._stages.geometry(params)), 7)
        assert torch.equal(state.latents, known.after_step(state.latents.clone(), scheduler.sigmas[step]))
    assert resumed.path.read_bytes() == whole
    assert resumed.stats.steps_computed + resumed.stats.steps_skipped == 6 - step
    assert video(runner, tmp_path, params=params) == whole


def test_a_cancelled_generation_does_not_affect_the_next(runner: Runner, tmp_path: Path) -> None:
    expected = runner.run(TEXT, tmp_path / "text.mp4").path.read_bytes(), video(runner, tmp_path)
    for asked_before in (0, 3):
        answers = iter([False] * asked_before)
        with pytest.raises(GenerationCancelled):
            video(runner, tmp_path, Callbacks(cancelled=lambda answers=answers: next(answers, True)))  # type: ignore[misc]

    assert (runner.run(TEXT, tmp_path / "text.mp4").path.read_bytes(), video(runner, tmp_path)) == expected


def test_an_image_without_the_mode_is_refused_as_before(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(InputImageError, match=r"from text only, without an image\. With image_mode first_frame"):
        runner.run(TEXT, tmp_path / "video.mp4", image=IMAGE)
    with pytest.raises(InputImageError, match="image_mode needs an image"):
        runner.run(replace(TEXT, image_mode=ImageMode.FIRST_FRAME), tmp_path / "video.mp4")
    with pytest.raises(InputImageError, match="takes no last image"):
        runner.run(replace(TEXT, image_mode=ImageMode.FIRST_FRAME), tmp_path / "v.mp4", image=IMAGE, last_image=IMAGE)
    assert not [*tmp_path.iterdir()]


def test_models_that_are_trained_for_images_refuse_the_mode(ti2v_5b: Path, tmp_path: Path) -> None:
    i2v = ModelSpec("i2v", fps=16, pipeline_class="WanImageToVideoPipeline")
    trained = [
        Runner.load(ModelSpec("5b", fps=24), ti2v_5b, "cpu"),
        Runner.load(i2v, i2v_folder(tmp_path / "weights"), "cpu"),
    ]

    for each in trained:
        with pytest.raises(InputImageError, match="image_mode must be left out: this model is trained for images"):
            video(each, tmp_path)
