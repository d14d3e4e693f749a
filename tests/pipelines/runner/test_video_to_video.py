"""A video made from another one is the library's own, through every way in which this project computes it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanVideoToVideoPipeline
from PIL import Image

from pipelines.core.errors import (
    GenerationCancelled,
    GenerationSuspended,
    InputVideoError,
    VideoParamsError,
)
from pipelines.core.model import LatentRgb, ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import Sampler, StepCaching, VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.planning.layout import Decoding, Layout, Residence
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.generation_stages import Inputs
from pipelines.runner.oom_fallback import OutOfMemoryFallback
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.conditioning.images import Images
from pipelines.stages.conditioning.known_latents import encode_video
from pipelines.stages.conditioning.vae_encoding import normalise
from pipelines.stages.conditioning.video_frames import read_frames, video_digest
from pipelines.stages.preview.preview import Preview
from pipelines.stages.writing.video_writer import Mp4Writer
from tests.pipelines.conftest import both_dtypes
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.clips import write_clip
from tests.support.video import psnr, read_video

pytestmark = both_dtypes

TEXT = VideoParams("an ox by a lake", "blurry", 64, 96, 9, 6, 5.0, 7, strength=0.5)
LAYOUTS = ["wan21", "a14b", "ti2v_5b"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 9)


class Model:
    """Small weights of a layout, loaded, and the video that others are made from."""

    def __init__(self, folder: Path, clip: Path) -> None:
        self.folder, self.clip = folder, clip
        self.spec = ModelSpec("small", fps=16)
        self.runner = self.load()
        self.params = replace(TEXT, video=video_digest(clip))

    def load(self, **options: Any) -> Runner:
        return Runner.load(self.spec, self.folder, "cpu", **options)

    def video(
        self,
        folder: Path,
        callbacks: Callbacks = NO_CALLBACKS,
        params: VideoParams | None = None,
        runner: Runner | None = None,
    ) -> bytes:
        made = (runner or self.runner).render(params or self.params, folder / "video.mp4", callbacks, video=self.clip)
        return made.finish().path.read_bytes()

    @torch.no_grad()
    def latents(self, params: VideoParams) -> torch.Tensor:
        stages = self.runner._stages
        negative, prompt = (stages._prompts.encode(text) for text in (params.negative_prompt, params.prompt))
        geometry, guidance = stages.geometry(params), stages._guidance(params, negative)
        known = stages.known(params, geometry, Inputs(Images(), self.clip))
        made = stages._latents(prompt, negative, params, geometry, guidance, None, known)
        assert guidance.steps_computed == params.num_inference_steps - params.first_step
        return made


@pytest.fixture(scope="module", params=LAYOUTS)
def model(processor: str, request: pytest.FixtureRequest, clip: Path) -> Model:
    return Model(request.getfixturevalue(request.param), clip)


def by_timestep(scheduler: Any) -> Any:
    """The scheduler, but looking for the step of a timestep, as `WanVideoToVideoPipeline` needs it."""

    class ByTimestep(type(scheduler)):  # type: ignore[misc]
        def set_timesteps(self, *arguments: Any, **options: Any) -> None:
            super().set_timesteps(*arguments, **options)
            self._begin_index = None

    return ByTimestep.from_config(scheduler.config)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("sampler", Sampler)
def test_the_latents_equal_the_librarys(sampler: Sampler, strength: float, wan21_runner: Runner, clip: Path) -> None:
    model = Model.__new__(Model)
    model.runner, model.clip = wan21_runner, clip
    params = replace(TEXT, video=video_digest(clip), sampler=sampler, strength=strength)
    loaded = wan21_runner._loaded
    names = ("tokenizer", "text_encoder", "transformer", "vae")
    pipe = WanVideoToVideoPipeline(
        **{name: loaded.pipe.components[name] for name in names}, scheduler=by_timestep(loaded.samplers.make(sampler))
    )
    geometry = wan21_runner._stages.geometry(params)
    with torch.no_grad():
        expected = pipe(
            video=list(read_frames(clip, geometry, 16)),
            prompt=TEXT.prompt,
            negative_prompt=TEXT.negative_prompt,
            height=64,
            width=96,
            num_inference_steps=6,
            strength=strength,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type="latent",
        ).frames

    assert torch.equal(model.latents(params), expected)


def plain_loop(model: Model, params: VideoParams, frames: torch.Tensor) -> torch.Tensor:
    """Video to video written out, without guidance: the definition for the layouts that the library cannot run."""
    pipe, scheduler = model.runner._loaded.pipe, model.runner._loaded.samplers.make(params.sampler)
    prompt = model.runner._stages._prompts.encode(params.prompt)
    clean = normalise(pipe.vae, pipe.vae.encode(frames.to(pipe.vae.dtype)).latent_dist.mode())
    noise = torch.randn(clean.shape, generator=torch.Generator("cpu").manual_seed(params.seed))
    scheduler.set_timesteps(params.num_inference_steps)
    first = params.num_inference_steps - int(params.num_inference_steps * params.strength)
    scheduler.set_begin_index(first)
    sigma = float(scheduler.sigmas[first])
    latents = (1 - sigma) * clean + sigma * noise
    for timestep in scheduler.timesteps[first:]:
        boundary = pipe.config.boundary_ratio
        is_noisy = boundary is None or timestep >= boundary * 1000
        denoiser = pipe.transformer if is_noisy else pipe.transformer_2
        times = timestep.expand(1)
        if pipe.config.expand_timesteps:
            _, _, length, height, width = latents.shape
            times = timestep.expand(1, length * (height // 2) * (width // 2))
        velocity = denoiser(latents.to(denoiser.dtype), times, prompt, return_dict=False)[0]
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("strength", [0.2, 0.8])
@pytest.mark.parametrize("sampler", Sampler)
@torch.no_grad()
def test_the_latents_equal_those_of_a_plain_loop(sampler: Sampler, strength: float, model: Model) -> None:
    params = replace(model.params, guidance_scale=1.0, strength=strength, sampler=sampler)
    pictures = read_frames(model.clip, model.runner._stages.geometry(params), 16)
    pixels = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures])
    frames = pixels.permute(3, 0, 1, 2)[None].float() / 127.5 - 1

    expected = plain_loop(model, params, frames)

    torch.testing.assert_close(model.latents(params), expected, rtol=1e-3, atol=1e-3)


def test_less_strength_leaves_more_of_the_video(tmp_path: Path) -> None:
    trained = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")
    params = replace(TEXT, negative_prompt=" ", num_inference_steps=10)
    original = trained.run(params, tmp_path / "original.mp4").path

    distances = []
    for strength in (0.1, 0.5, 1.0):
        other = replace(params, seed=8, strength=strength)
        distances.append(psnr(trained.run(other, tmp_path / "video.mp4", video=original).path, original))

    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 28
    assert distances[2] < 22


def test_the_video_decides_and_leaves_nothing_behind(model: Model, tmp_path: Path) -> None:
    text = replace(TEXT, strength=0.8)
    before = model.runner.run(text, tmp_path / "text.mp4").path.read_bytes()
    other = write_clip(tmp_path / "other.mp4", 9, width=128)

    videos = [model.video(tmp_path), before]
    videos.append(model.runner.run(TEXT, tmp_path / "made.mp4", video=other).path.read_bytes())
    videos.append(
        model.runner.run(replace(TEXT, strength=1.0), tmp_path / "made.mp4", video=model.clip).path.read_bytes()
    )

    assert len(set(videos)) == 4
    assert model.runner.run(text, tmp_path / "text.mp4").path.read_bytes() == before
    assert model.runner.run(TEXT, tmp_path / "named.mp4", video=str(model.clip)).path.read_bytes() == videos[0]


def test_frames_are_those_of_the_file(model: Model, tmp_path: Path) -> None:
    frames = model.runner.frames(TEXT, video=model.clip).frames

    with Mp4Writer(tmp_path / "frames.mp4", 96, 64, 16) as writer:
        writer.write(frames)
        writer.close()
    assert (tmp_path / "frames.mp4").read_bytes() == model.video(tmp_path)


def test_another_length_and_size_are_made_from_the_same_video(model: Model, tmp_path: Path) -> None:
    params = replace(model.params, width=70, height=50, num_frames=6)

    model.video(tmp_path, params=params)

    assert read_video(tmp_path / "video.mp4").shape == (6, 50, 70, 3)


@pytest.mark.parametrize("where", [Residence.STREAMED, Residence.DISK])
def test_streamed_weights_make_the_same_video(where: Residence, model: Model, tmp_path: Path) -> None:
    layout = Layout(transformer=where, text_encoder=where)
    streamed = model.load(layout=layout, cache=tmp_path)

    # a processor computes on the map itself, which is not aligned: some round otherwise there
    assert psnr(model.video(tmp_path, runner=streamed), model.video(tmp_path)) > 40


def test_batched_guidance_makes_nearly_the_same_video(model: Model, tmp_path: Path) -> None:
    batched = model.load(layout=Layout(batched=True), cache=tmp_path)

    one, other = (runner.frames(TEXT, video=model.clip).frames.astype(float) for runner in (model.runner, batched))

    # 40 dB
    assert ((one - other) ** 2).mean() < 255**2 / 10**4


def test_guidance_applies_within_its_interval_only(model: Model, tmp_path: Path) -> None:
    limited = Runner(replace(model.spec, guidance_interval=(0.0, 0.5)), model.runner._loaded, tmp_path)
    # with the small models' shift of 3 or 5, three steps from the middle on have noise levels above and below 0.5
    passes = [runner.frames(TEXT, video=model.clip).passes for runner in (model.runner, limited)]

    assert passes[0] == 6
    assert 3 < passes[1] < 6


SUSPENDED: list[tuple[int, StepCaching, Sampler]] = [
    (4, StepCaching.EXACT, Sampler.UNIPC),
    (5, StepCaching.EXACT, Sampler.DPM),
    (5, StepCaching.EXACT, Sampler.EULER),
    (8, StepCaching.FAST, Sampler.UNIPC),
    (10, StepCaching.EXACT, Sampler.UNIPC),
]


@pytest.mark.parametrize(("step", "level", "sampler"), SUSPENDED)
def test_a_suspended_generation_ends_in_the_same_video(
    model: Model, step: int, level: StepCaching, sampler: Sampler, tmp_path: Path
) -> None:
    params = replace(model.params, step_cache=level, sampler=sampler, num_inference_steps=10, strength=0.75)
    whole = model.video(tmp_path, params=params)
    path = tmp_path / "half.ckpt"
    done: list[int] = []

    def report(progress: Progress) -> None:
        if progress.stage is Stage.DENOISE:
            done.append(progress.step)

    suspending = Callbacks(report, checkpoint=Checkpoint(path, 1000.0, lambda: done[-1] >= step))
    with pytest.raises(GenerationSuspended):
        model.video(tmp_path, suspending, params)
    resumed = model.runner.render(
        params, tmp_path / "video.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)), video=model.clip
    ).finish()

    assert done == list(range(3, step + 1))
    assert resumed.path.read_bytes() == whole
    assert resumed.stats.steps_computed + resumed.stats.steps_skipped == 10 - step
    assert model.video(tmp_path, params=params) == whole


def test_a_checkpoint_of_another_video_or_strength_is_not_used(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "half.ckpt"
    with pytest.raises(GenerationSuspended):
        model.video(tmp_path, Callbacks(checkpoint=Checkpoint(path, 1000.0, lambda: True)))
    other = write_clip(tmp_path / "other.mp4", 9, width=128)

    for params, clip in ((TEXT, other), (replace(TEXT, strength=0.6), model.clip)):
        callbacks = Callbacks(checkpoint=Checkpoint(path, 1000.0))
        made = model.runner.run(params, tmp_path / "made.mp4", callbacks, video=clip)
        # the checkpoint is that of the last step afterwards
        assert made.stats.steps_computed == 3


def test_progress_begins_at_the_first_step_and_never_decreases(model: Model, tmp_path: Path) -> None:
    seen: list[Progress] = []

    model.video(tmp_path, Callbacks(seen.append))

    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert [progress.step for progress in seen if progress.stage is Stage.DENOISE] == [3, 4, 5, 6]
    assert {progress.steps for progress in seen if progress.stage is Stage.DENOISE} == {6}


@pytest.mark.parametrize("asked_before", [0, 1, 4])
def test_a_cancelled_generation_does_not_affect_the_next(model: Model, asked_before: int, tmp_path: Path) -> None:
    expected = model.video(tmp_path)
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > asked_before

    stages: list[Stage] = []
    with pytest.raises(GenerationCancelled):
        model.video(tmp_path, Callbacks(lambda progress: stages.append(progress.stage), cancelled))

    # asked after each of three groups of frames that are encoded, and after each step
    assert (Stage.DENOISE in stages) is (asked_before >= 3)
    assert asked == asked_before + 1
    assert model.video(tmp_path) == expected


@pytest.mark.parametrize("sampler", Sampler)
def test_previews_are_drawn(model: Model, sampler: Sampler, tmp_path: Path) -> None:
    channels = model.runner._loaded.vae.config.z_dim
    latent_rgb = LatentRgb(factors=((0.1, 0.1, 0.1),) * channels, bias=(0.0, 0.0, 0.0))
    runner = Runner(replace(model.spec, latent_rgb=latent_rgb), model.runner._loaded, tmp_path)
    shown: list[int] = []

    preview = Preview(tmp_path / "preview.jpg", 1e-9, shown.append)
    params = replace(model.params, sampler=sampler)
    made = model.video(tmp_path, Callbacks(preview=preview), params, runner)

    # of Euler's first step the latents before it are not known
    assert shown == ([5, 6] if sampler is Sampler.EULER else [4, 5, 6])
    with Image.open(tmp_path / "preview.jpg") as picture:
        assert picture.format == "JPEG"
    assert made == model.video(tmp_path, params=params)


def test_a_video_that_is_not_the_requests_is_refused(model: Model, tmp_path: Path) -> None:
    run, path = model.runner.run, tmp_path / "video.mp4"
    wrong: list[tuple[VideoParams, Path | None, str]] = [
        (model.params, None, "video is missing"),
        (TEXT, model.clip, "has no video"),
        (replace(TEXT, video="0" * 64), model.clip, "is not the request's"),
        (replace(model.params, num_frames=10), model.clip, "has 9 frames at 16 a second, and num_frames is 10"),
    ]
    for params, video, sentence in wrong:
        with pytest.raises(InputVideoError, match=sentence):
            model.runner.render(params, path, video=video)
    with pytest.raises(VideoParamsError, match=r"^video must not be given together with image\.$"):
        run(TEXT, path, image=gradient(96, 64), video=model.clip)
    assert not [*tmp_path.iterdir()]


def test_a_smaller_plan_makes_the_same_request(model: Model, tmp_path: Path) -> None:
    fallback = OutOfMemoryFallback.load(model.spec, model.folder, "cpu", cache=tmp_path / "cache")

    made = fallback.render(model.params, tmp_path / "made.mp4", video=model.clip).finish()

    assert made.path.read_bytes() == model.video(tmp_path)


def test_a_plan_in_tiles_encodes_in_tiles(model: Model, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "wide.mp4", 9, width=320)
    params = replace(TEXT, width=320, guidance_scale=1.0, video=video_digest(clip))
    layouts = Layout(), Layout(decoding=Decoding.TILES_256)
    whole, tiled = (model.load(layout=layout, cache=tmp_path) for layout in layouts)
    path, asked = tmp_path / "half.ckpt", 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    made = [
        runner.render(params, tmp_path / "video.mp4", Callbacks(cancelled=count), video=clip).finish().path.read_bytes()
        for runner in (whole, tiled)
    ]
    with pytest.raises(GenerationSuspended):
        suspending = Callbacks(checkpoint=Checkpoint(path, 1000.0, lambda: True))
        tiled.render(params, tmp_path / "video.mp4", suspending, video=clip)
    resumed = tiled.render(
        params, tmp_path / "video.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)), video=clip
    ).finish()

    # three groups of frames, three steps and three groups of latents, and twice as many groups with two tiles
    assert asked == 9 + 15
    assert psnr(made[0], made[1]) > 25
    assert resumed.path.read_bytes() == made[1]
    assert resumed.stats.steps_computed == 2
    # the latents are others, unless only frames are decoded in tiles
    assert whole._latents_depend_on(params) != tiled._latents_depend_on(params)
    assert whole._latents_depend_on(TEXT) == tiled._latents_depend_on(TEXT)


@torch.no_grad()
def test_encoding_needs_no_more_than_a_group_of_frames(
    wan21_runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 33)
    waiting: list[int] = []
    read = 0

    def counted(*arguments: Any) -> Any:
        nonlocal read
        for frame in read_frames(*arguments):
            read += 1
            yield frame

    monkeypatch.setattr("pipelines.stages.conditioning.known_latents.read_frames", counted)
    geometry = wan21_runner._stages.geometry(replace(TEXT, num_frames=33))
    after: Callable[[], None] = lambda: waiting.append(read - len(waiting) * 4 - 1)  # noqa: E731

    latents = encode_video(wan21_runner._loaded.pipe, clip, geometry, 16, after)

    assert latents.shape == (1, 16, 9, 8, 12)
    assert waiting == [0] * 9
