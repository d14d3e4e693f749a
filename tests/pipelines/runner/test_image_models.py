"""A video of a model that needs images is the library's own, through every way in which this project computes it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from pipelines.core.errors import GenerationCancelled, GenerationSuspended, InputImageError, InputVideoError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import StepCaching, VideoParams
from pipelines.layers.cpu_conv3d import use_onednn
from pipelines.models.catalogue import read_catalogue
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.conditioning.images import Images, image_digest, named
from pipelines.stages.preview.preview import Preview
from tests.pipelines.conftest import both_dtypes
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.clips import write_clip
from tests.support.models.wan_image import flf2v_folder, i2v_a14b_folder, i2v_folder

pytestmark = both_dtypes

FIRST = gradient(96, 64)
LAST = FIRST.transpose(Image.Transpose.ROTATE_180)
TEXT = VideoParams("an ox by a lake", "blurry", 64, 96, 9, 6, 5.0, 7)


@dataclass(frozen=True)
class Kind:
    """A kind of model: what writes its weights, and the images that its requests have."""

    write: Callable[[Path], Path]
    images: Images
    experts: int = 1


KINDS = {
    "I2V": Kind(i2v_folder, Images(FIRST)),
    "FLF2V": Kind(flf2v_folder, Images(FIRST, LAST)),
    "A14B": Kind(i2v_a14b_folder, Images(FIRST), experts=2),
    "A14B with a last image": Kind(i2v_a14b_folder, Images(FIRST, LAST), experts=2),
}


class Model:
    """Small weights of a kind, loaded."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, kind.write(folder)
        self.spec = ModelSpec("image", fps=16, pipeline_class="WanImageToVideoPipeline")
        self.runner = self.load()
        self.params = named(TEXT, kind.images)

    def load(self, **options: Any) -> Runner:
        return Runner.load(self.spec, self.folder, "cpu", **options)

    def video(
        self,
        folder: Path,
        callbacks: Callbacks = NO_CALLBACKS,
        params: VideoParams | None = None,
        runner: Runner | None = None,
    ) -> bytes:
        images, path = self.kind.images, folder / "video.mp4"
        made = (runner or self.runner).render(params or self.params, path, callbacks, images.first, images.last)
        return made.finish().path.read_bytes()

    def latents(self, params: VideoParams) -> tuple[torch.Tensor, int]:
        """The latents by this project's stages, and the passes that it computed."""
        stages = self.runner._stages
        with torch.no_grad():
            negative, prompt = (stages._prompts.encode(text) for text in (params.negative_prompt, params.prompt))
            geometry, guidance = stages.geometry(params), stages._guidance(params, negative)
            condition = stages.condition(geometry, stages.fit_images(params, geometry, self.kind.images))
            made = stages._latents(prompt, negative, params, geometry, guidance, condition)
        return made, guidance.passes_computed

    def librarys(self, pipe: Any) -> torch.Tensor:
        with torch.no_grad():
            latents: torch.Tensor = pipe(
                image=self.kind.images.first,
                last_image=self.kind.images.last,
                prompt=TEXT.prompt,
                negative_prompt=TEXT.negative_prompt,
                height=TEXT.height,
                width=TEXT.width,
                num_frames=TEXT.num_frames,
                num_inference_steps=TEXT.num_inference_steps,
                guidance_scale=TEXT.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(TEXT.seed),
                output_type="latent",
            ).frames
        return latents


@pytest.fixture(scope="module", params=list(KINDS))
def model(processor: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(KINDS[request.param], tmp_path_factory.mktemp("image") / "weights")


def test_the_latents_equal_the_librarys(model: Model) -> None:
    loaded = model.runner._loaded
    settings = {name: loaded.pipe.config[name] for name in ("boundary_ratio", "expand_timesteps")}
    parts = {**loaded.pipe.components, "scheduler": loaded.samplers.make()}

    made, passes = model.latents(model.params)

    assert torch.equal(made, model.librarys(WanImageToVideoPipeline(**parts, **settings)))
    assert passes == 12
    assert len(loaded.denoisers) == model.kind.experts


def test_the_librarys_own_loading_gives_the_same_latents(model: Model, processor: str) -> None:
    if processor != "float32":
        pytest.skip("diffusers keeps its residual stream in bf16")
    pipe = WanImageToVideoPipeline.from_pretrained(model.folder)
    pipe.scheduler = model.runner._loaded.samplers.make()
    use_onednn(pipe.vae)

    assert torch.equal(model.latents(model.params)[0], model.librarys(pipe))


def test_each_image_decides_the_video(model: Model, tmp_path: Path) -> None:
    images = model.kind.images
    inverted = Image.eval(FIRST, lambda value: 255 - value)
    others = [replace(images, first=inverted)] + ([replace(images, last=inverted)] if images.last else [])

    videos = [model.video(tmp_path)]
    for other in others:
        made = model.runner.run(TEXT, tmp_path / "other.mp4", image=other.first, last_image=other.last)
        videos.append(made.path.read_bytes())

    assert len(set(videos)) == len(videos)
    # an image leaves nothing behind for the next video
    assert model.video(tmp_path) == videos[0]
    named_by_run = model.runner.run(TEXT, tmp_path / "named.mp4", image=images.first, last_image=images.last)
    assert named_by_run.path.read_bytes() == videos[0]


@pytest.mark.parametrize("where", [Residence.STREAMED, Residence.DISK])
def test_streamed_weights_make_the_same_video(where: Residence, model: Model, tmp_path: Path) -> None:
    layout = Layout(transformer=where, text_encoder=where)
    streamed = model.load(layout=layout, cache=tmp_path)
    encoder = getattr(streamed._loaded.pipe, "image_encoder", None)

    assert model.video(tmp_path, runner=streamed) == model.video(tmp_path)
    assert encoder is None or all(hasattr(layer.mlp.fc1, "_diffusers_hook") for layer in encoder.encoder.layers)


def test_batched_guidance_makes_nearly_the_same_video(model: Model, tmp_path: Path) -> None:
    batched = model.load(layout=Layout(batched=True), cache=tmp_path)
    batches: list[int] = []
    for denoiser in batched._loaded.denoisers:
        denoiser.patch_embedding.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))

    # of the frames themselves: what bf16 rounds is noise, which a video file costs more
    images = model.kind.images
    one, other = (
        runner.frames(TEXT, images.first, images.last).frames.astype(float) for runner in (model.runner, batched)
    )
    # on some processors they are equal
    assert ((one - other) ** 2).mean() < 255**2 / 10**4
    assert batches == [2] * 6


@pytest.mark.parametrize(("step", "level"), [(1, StepCaching.EXACT), (4, StepCaching.FAST), (6, StepCaching.EXACT)])
def test_a_suspended_generation_ends_in_the_same_video(
    model: Model, step: int, level: StepCaching, tmp_path: Path
) -> None:
    params = replace(model.params, step_cache=level)
    whole = model.video(tmp_path, params=params)
    path = tmp_path / "half.ckpt"
    done = 0

    def report(progress: Progress) -> None:
        nonlocal done
        done = progress.step if progress.stage is Stage.DENOISE else 0

    suspending = Callbacks(report, checkpoint=Checkpoint(path, 1000.0, lambda: done >= step))
    with pytest.raises(GenerationSuspended):
        model.video(tmp_path, suspending, params)
    images = model.kind.images
    resumed = model.runner.render(
        params, tmp_path / "video.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)), images.first, images.last
    ).finish()

    assert resumed.path.read_bytes() == whole
    assert resumed.stats.steps_computed + resumed.stats.steps_skipped == 6 - step
    assert model.video(tmp_path, params=params) == whole


def test_a_checkpoint_of_other_images_is_not_used(model: Model, tmp_path: Path) -> None:
    path, images = tmp_path / "half.ckpt", model.kind.images
    with pytest.raises(GenerationSuspended):
        model.video(tmp_path, Callbacks(checkpoint=Checkpoint(path, 1000.0, lambda: True)))
    inverted = Image.eval(FIRST, lambda value: 255 - value)
    other = Images(inverted) if images.last is None else Images(FIRST, inverted)

    made = model.runner.run(
        TEXT, tmp_path / "other.mp4", Callbacks(checkpoint=Checkpoint(path, 1000.0)), other.first, other.last
    )

    assert made.stats.steps_computed == 6


def test_a_checkpoint_depends_on_the_dtype_in_which_images_are_encoded(
    model: Model, processor: str, tmp_path: Path
) -> None:
    exact = model.load(layout=Layout(fp32_decoding=True), cache=tmp_path)
    rounded = model.load(layout=Layout(), cache=tmp_path)
    params = model.params

    with torch.no_grad():
        one, other = (runner._stages.condition(*_fitted(runner, params, model)) for runner in (exact, rounded))
    assert one is not None
    assert other is not None
    are_equal = torch.equal(one.tensors[-1], other.tensors[-1])

    assert are_equal is (processor == "float32")
    assert (exact._latents_depend_on(params) == rounded._latents_depend_on(params)) is are_equal


def _fitted(runner: Runner, params: VideoParams, model: Model) -> tuple[Geometry, Images]:
    geometry = runner._stages.geometry(params)
    return geometry, runner._stages.fit_images(params, geometry, model.kind.images)


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


def test_previews_are_drawn(model: Model, tmp_path: Path) -> None:
    latent_rgb = read_catalogue()["wan-ai-wan2-1-i2v-14b-480p-diffusers"].model.latent_rgb
    runner = Runner(replace(model.spec, latent_rgb=latent_rgb), model.runner._loaded, tmp_path)
    shown: list[int] = []

    preview = Preview(tmp_path / "preview.jpg", 1e-9, shown.append)
    video = model.video(tmp_path, Callbacks(preview=preview), runner=runner)

    assert shown == [1, 2, 3, 4, 5, 6]
    with Image.open(tmp_path / "preview.jpg") as picture:
        assert picture.format == "JPEG"
    assert video == model.video(tmp_path)


def test_images_are_encoded_once(model: Model, tmp_path: Path) -> None:
    encoder = getattr(model.runner._loaded.pipe, "image_encoder", None)
    if encoder is None:
        pytest.skip("it has no image encoder")
    model.runner._stages._images._embeddings.clear()
    seen: list[int] = []
    hook = encoder.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(len(inputs["pixel_values"])), with_kwargs=True
    )

    for seed in (1, 2):
        model.video(tmp_path, params=replace(model.params, seed=seed))
    images = model.kind.images
    inverted = Image.eval(images.given[-1], lambda value: 255 - value)
    other = Images(inverted) if images.last is None else Images(images.first, inverted)
    first, second = (model.runner._stages._images.encode(each) for each in (images, other))
    hook.remove()

    assert seen == [len(images.given)] * 2
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_a_request_without_its_images_is_refused(model: Model, tmp_path: Path) -> None:
    images = model.kind.images
    with pytest.raises(InputImageError, match="This model needs an image: it makes videos that begin with one"):
        model.runner.run(TEXT, tmp_path / "text.mp4")
    with pytest.raises(InputImageError, match="image is missing"):
        model.runner.render(model.params, tmp_path / "text.mp4")
    if images.last is not None:
        with pytest.raises(InputImageError, match="last image is missing"):
            model.runner.render(model.params, tmp_path / "text.mp4", image=images.first)
        with pytest.raises(InputImageError, match="has at least 2 frames"):
            model.runner.run(replace(TEXT, num_frames=1), tmp_path / "one.mp4", image=FIRST, last_image=LAST)
        with pytest.raises(InputImageError, match="last image is not the request's"):
            model.runner.render(model.params, tmp_path / "text.mp4", image=FIRST, last_image=FIRST)
    assert not [*tmp_path.iterdir()]


def test_a_last_image_is_refused_or_required_as_the_model_has_it(model: Model, tmp_path: Path) -> None:
    one, two = Images(FIRST), Images(FIRST, LAST)
    kind, run = model.kind, model.runner.run
    if kind.write is i2v_folder:
        with pytest.raises(InputImageError, match="takes no last image"):
            run(TEXT, tmp_path / "video.mp4", image=two.first, last_image=two.last)
    elif kind.write is flf2v_folder:
        with pytest.raises(InputImageError, match="needs a last image"):
            run(TEXT, tmp_path / "video.mp4", image=one.first)
    else:
        videos = {
            run(TEXT, tmp_path / "video.mp4", image=each.first, last_image=each.last).path.read_bytes()
            for each in (one, two)
        }
        assert len(videos) == 2


def test_a_video_is_refused(model: Model, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 9)

    with pytest.raises(InputVideoError, match=r"^This model takes no video: it cannot make one from another\.$"):
        model.runner.run(TEXT, tmp_path / "video.mp4", video=clip)


def test_the_last_image_is_a_fact_of_the_video() -> None:
    digest = image_digest(LAST)

    assert "last_image" not in TEXT.facts
    assert replace(TEXT, last_image=digest).facts == {**TEXT.facts, "last_image": digest}
