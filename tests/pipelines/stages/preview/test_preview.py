"""Previews show the right picture in the right size and do not change the video."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from demo_training.fit_latent_rgb import error, fit, pairs
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.model import LatentRgb, ModelSpec
from pipelines.core.request import Sampler, VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.hub.folder import digest
from pipelines.hub.local import LATENT_RGB
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.denoising import denoise
from pipelines.stages.guidance import Guidance
from pipelines.stages.preview.latent_rgb import project, read_latent_rgb, write_latent_rgb
from pipelines.stages.preview.preview import LONGEST_SIDE, Preview, draw
from tests.support.models.wan22 import a14b_folder, ti2v_5b_folder

PARAMS = VideoParams("an ox by a lake", " ", 64, 96, 9, 4, 5.0, 7)
RED_IS_THE_FIRST = LatentRgb(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), (0.0, 0.0, -1.0))
ANY = LatentRgb(tuple((0.1, -0.2, 0.05 * n) for n in range(16)), (0.0, 0.1, 0.2))
GRID = Grid.of(8, (2, 2), 4)


class Album:
    """Records every picture of a run by the number of steps whose result it shows."""

    def __init__(self, folder: Path, interval: float = 1e-9) -> None:
        self.path = folder / "preview.jpg"
        self.pictures: dict[int, Image.Image] = {}
        self.preview = Preview(self.path, interval, self._keep)

    def _keep(self, step: int) -> None:
        self.pictures[step] = Image.open(self.path).copy()


def made(runner: Runner, folder: Path, preview: Preview | None = None, **changes: Any) -> bytes:
    path = folder / "video.mp4"
    runner.run(replace(PARAMS, **changes), path, Callbacks(preview=preview))
    return path.read_bytes()


@pytest.fixture
def runner(weights_folder: Path) -> Runner:
    return Runner.load(ModelSpec("demo", fps=16, latent_rgb=ANY), weights_folder, "cpu")


# the picture


def test_each_channel_adds_its_own_colour_between_black_and_full() -> None:
    latents = torch.tensor([[[-9.0, -1.0, 0.0, 1.0, 9.0]], [[0.0, 0.0, 0.0, 1.0, float("nan")]]])

    rgb = project(latents, RED_IS_THE_FIRST)

    assert rgb.tolist() == [[[0, 128, 0], [0, 128, 0], [128, 128, 0], [255, 255, 0], [128, 128, 128]]]


@given(width=st.integers(1, 1280), height=st.integers(1, 720), frames=st.integers(1, 120))
def test_a_picture_has_the_videos_shape_and_is_never_larger(width: int, height: int, frames: int) -> None:
    geometry = Geometry.fit(width, height, frames, GRID)
    t = (geometry.full_num_frames - 1) // 4 + 1

    picture = draw(
        torch.zeros(1, 2, t, geometry.full_height // 8, geometry.full_width // 8), RED_IS_THE_FIRST, geometry
    )

    longest = max(geometry.width, geometry.height)
    scale = min(1, LONGEST_SIDE / longest)
    assert picture.mode == "RGB"
    assert max(picture.size) == min(longest, LONGEST_SIDE)
    assert abs(picture.width - geometry.width * scale) <= 1
    assert abs(picture.height - geometry.height * scale) <= 1


@given(width=st.integers(130, 1280), height=st.integers(130, 720))
def test_a_picture_shows_the_cropped_area(width: int, height: int) -> None:
    geometry = Geometry.fit(width, height, 1, GRID)
    h, w = geometry.full_height // 8, geometry.full_width // 8
    # red grows from left to right and green from top to bottom of the generated frame
    right = ((torch.arange(w) + 0.5) / w * 2 - 1).expand(h, w)
    down = ((torch.arange(h) + 0.5) / h * 2 - 1)[:, None].expand(h, w)

    picture = np.asarray(draw(torch.stack([right, down])[None, :, None], RED_IS_THE_FIRST, geometry)) / 255

    # away from the edges, where interpolation lacks neighbours
    rows, columns = geometry.crop
    for share in (0.25, 0.75):
        x, y = int(picture.shape[1] * share), int(picture.shape[0] * share)
        place = (columns.start + (x + 0.5) / picture.shape[1] * geometry.width) / geometry.full_width
        assert picture[y, x, 0] == pytest.approx(place, abs=0.006)
        place = (rows.start + (y + 0.5) / picture.shape[0] * geometry.height) / geometry.full_height
        assert picture[y, x, 1] == pytest.approx(place, abs=0.006)


def test_a_picture_shows_the_middle_frame() -> None:
    latents = torch.full((1, 2, 5, 8, 8), -1.0)
    latents[:, 0, 2] = 1.0

    picture = draw(latents, RED_IS_THE_FIRST, Geometry.fit(64, 64, 17, GRID))

    assert picture.getpixel((32, 32)) == (255, 0, 0)


# the prediction of the finished latents


@pytest.mark.parametrize(("sampler", "first"), [(Sampler.UNIPC, 1), (Sampler.DPM, 1), (Sampler.EULER, 2)])
def test_the_prediction_follows_the_velocity_to_its_end(
    runner: Runner, sampler: Sampler, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = runner._loaded.pipe
    scheduler = runner._loaded.samplers.make(sampler)
    expected: list[torch.Tensor] = []
    plain = type(scheduler).step

    def step(self: Any, velocity: torch.Tensor, time: Any, sample: torch.Tensor, **options: Any) -> Any:
        expected.append(sample - float(time) / 1000 * velocity)
        return plain(self, velocity, time, sample, **options)

    monkeypatch.setattr(type(scheduler), "step", step)
    predicted: dict[int, torch.Tensor] = {}

    def after_step(number: int, _capture: object, predict: Callable[[], torch.Tensor | None]) -> None:
        if (latents := predict()) is not None:
            predicted[number] = latents

    prompt = runner._stages._prompts.encode("an ox")
    geometry = Geometry.fit(96, 64, 9, runner._loaded.grid)
    with torch.no_grad():
        final = denoise(
            runner._loaded.family,
            pipe,
            prompt,
            prompt,
            PARAMS,
            geometry,
            Guidance(runner._loaded.family, PARAMS.guidance_scale, prompt),
            scheduler=scheduler,
            on_step=after_step,
        )

    assert list(predicted) == list(range(first, 5))
    for number, latents in predicted.items():
        # the timesteps of the first two are rounded to whole numbers, their sigmas are not
        torch.testing.assert_close(latents, expected[number - 1], atol=0.01, rtol=0.01)
    torch.testing.assert_close(predicted[4], final, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("make", "channels"), [(a14b_folder, 16), (ti2v_5b_folder, 48)])
def test_models_with_two_experts_or_expanded_timesteps_have_previews(
    make: Callable[[Path], Path], channels: int, tmp_path: Path
) -> None:
    latent_rgb = LatentRgb(((0.1, 0.1, 0.1),) * channels, (0.0, 0.0, 0.0))
    model = Runner.load(ModelSpec("small", fps=16, latent_rgb=latent_rgb), make(tmp_path / "weights"), "cpu")
    album = Album(tmp_path)

    made(model, tmp_path, album.preview)

    assert list(album.pictures) == [1, 2, 3, 4]
    assert {picture.size for picture in album.pictures.values()} == {(96, 64)}


# the file


@pytest.mark.parametrize("sampler", Sampler)
def test_previews_do_not_change_the_video(runner: Runner, sampler: Sampler, tmp_path: Path) -> None:
    plain, fingerprint = made(runner, tmp_path, sampler=sampler), runner.fingerprint
    album = Album(tmp_path)

    assert made(runner, tmp_path, album.preview, sampler=sampler) == plain
    assert runner.fingerprint == fingerprint
    assert len(album.pictures) >= 3
    assert made(runner, tmp_path, sampler=sampler) == plain


def test_a_video_does_not_depend_on_the_map(weights_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights_folder, tmp_path / "weights"))
    before = digest(folder, "WanPipeline")

    write_latent_rgb(ANY, folder)

    assert digest(folder, "WanPipeline") == before
    with (folder / "vae" / "config.json").open("a") as config:
        config.write("\n")
    assert digest(folder, "WanPipeline") != before


def test_a_picture_is_written_when_due_and_after_the_last_step(tmp_path: Path, runner: Runner) -> None:
    album = Album(tmp_path, interval=1000)

    made(runner, tmp_path, album.preview)

    assert list(album.pictures) == [1, 4]


def test_a_file_is_small_and_complete_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randn(1, 2, 1, 90, 160, generator=torch.Generator().manual_seed(0))
    picture = draw(noise, RED_IS_THE_FIRST, Geometry.fit(1280, 720, 1, GRID))
    written: list[int] = []
    preview = Preview(tmp_path / "preview.jpg", 1e-9, written.append)
    before = Image.new("RGB", picture.size)
    preview.after_step(1, lambda: before, is_last=False)
    seen = []
    replace_ = Path.replace

    def look_then_replace(part: Path, path: Path) -> Path:
        seen.append([Image.open(file).copy().getextrema() for file in (path, part)])
        return replace_(part, path)

    monkeypatch.setattr(Path, "replace", look_then_replace)
    preview.after_step(2, lambda: picture, is_last=False)

    assert seen == [[((0, 0),) * 3, Image.open(tmp_path / "preview.jpg").copy().getextrema()]]
    assert written == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["preview.jpg"]
    # noise compresses worst
    assert (tmp_path / "preview.jpg").stat().st_size < 64_000


def test_a_preview_that_cannot_be_written_does_not_affect_the_video(
    runner: Runner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    preview = Preview(tmp_path / "nowhere" / "preview.jpg", 1e-9, lambda _: pytest.fail("there is no file"))

    assert made(runner, tmp_path, preview) == made(runner, tmp_path)
    assert len([text for text in caplog.messages if "no preview" in text]) == 1


# the source of the map


def test_a_map_in_the_weights_folder_takes_precedence(weights_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights_folder, tmp_path / "weights"))
    own = LatentRgb(((0.0, 0.0, 0.0),) * 16, (1.0, -1.0, -1.0))
    write_latent_rgb(own, folder)
    assert read_latent_rgb(folder) == own
    album = Album(tmp_path)

    made(Runner.load(ModelSpec("mine", fps=16, latent_rgb=ANY), folder, "cpu"), tmp_path, album.preview)

    pixel = album.pictures[4].getpixel((10, 10))
    assert isinstance(pixel, tuple)
    assert pixel == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is ignored"),
        (json.dumps({"factors": [[1, 2]], "bias": [0, 0, 0]}), "is ignored"),
        (json.dumps({"factors": [[1, 2, 3]], "bias": [0, 0, 0]}), "for 1 channels, and the VAE has 16"),
    ],
)
def test_a_map_that_does_not_match_is_logged_and_the_video_is_made(
    weights_folder: Path, tmp_path: Path, content: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(weights_folder, tmp_path / "weights"))
    (folder / LATENT_RGB).write_text(content)
    album = Album(tmp_path)

    assert made(Runner.load(ModelSpec("mine", fps=16), folder, "cpu"), tmp_path, album.preview)

    assert album.pictures == {}
    assert sentence in caplog.text


def test_without_a_map_there_is_no_preview(demo_runner: Runner, tmp_path: Path) -> None:
    album = Album(tmp_path)

    made(demo_runner, tmp_path, album.preview)

    assert album.pictures == {}
    assert not album.path.exists()


# the demo's map


def test_fitting_finds_the_map() -> None:
    latents = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    colours = latents @ torch.tensor(ANY.factors) + torch.tensor(ANY.bias)

    assert error(fit(latents, colours), latents, colours) < 1e-3


def test_the_demos_map_gives_its_clips_colours() -> None:
    latent_rgb = read_latent_rgb(demo_folder())
    assert latent_rgb is not None
    vae = AutoencoderKLWan.from_pretrained(demo_folder() / "vae").float()

    latents, colours = pairs(vae, seed=7, clips=2)

    assert error(latent_rgb, latents, colours) < 0.2


def test_a_preview_shows_a_red_circle_on_blue(tmp_path: Path) -> None:
    model = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")
    album = Album(tmp_path)
    params = VideoParams("A red circle moving left on a blue background", " ", 240, 416, 17, 8, 5.0, 1)

    model.run(params, tmp_path / "video.mp4", Callbacks(preview=album.preview))

    for step in (4, 8):
        red, green, blue = (np.asarray(album.pictures[step]).astype(int)[..., channel] for channel in range(3))
        is_red, is_blue = (red > 150) & (red > blue + 60), (blue > 150) & (blue > red + 60)
        assert 0.03 < is_red.mean() < 0.35
        assert is_blue.mean() > 0.5
        assert is_blue[0].mean() > 0.9
        assert not (is_red & is_blue).any()
        assert (green < red)[is_red].mean() > 0.9
