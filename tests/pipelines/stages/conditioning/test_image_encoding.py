"""Images are encoded group by group to what the library makes of the whole video."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.runner.runner import Runner
from pipelines.stages.conditioning.image_encoding import condition_tensors, read_image_processor
from pipelines.stages.conditioning.images import Images
from pipelines.stages.conditioning.vae_encoding import encode_frames
from tests.pipelines.conftest import both_dtypes
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.models.wan_image import SIDE, change, i2v_a14b_folder, i2v_folder


@pytest.fixture(scope="module")
def a14b_runner(processor: str, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    spec = ModelSpec("a14b", fps=16, pipeline_class="WanImageToVideoPipeline")
    return Runner.load(spec, i2v_a14b_folder(tmp_path_factory.mktemp("a14b") / "weights"), "cpu")


@both_dtypes
@pytest.mark.parametrize("layout", ["wan21", "ti2v_5b"])
@pytest.mark.parametrize("frames", [1, 5, 13])
@torch.no_grad()
def test_streamed_encoding_equals_the_whole(
    layout: str, frames: int, processor: str, request: pytest.FixtureRequest
) -> None:
    vae = Runner.load(ModelSpec("small", fps=16), request.getfixturevalue(layout), "cpu")._loaded.vae
    video = torch.rand(1, 3, frames, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole = vae.encode(video.to(vae.dtype)).latent_dist.mode()
    groups: list[int] = []

    streamed = encode_frames(vae, video.split([1] + [4] * (frames // 4), dim=2), lambda: groups.append(1))

    assert torch.equal(streamed, whole)
    assert len(groups) == 1 + (frames - 1) // 4
    # the cache of frames is empty again
    assert torch.equal(vae.encode(video.to(vae.dtype)).latent_dist.mode(), whole)


@torch.no_grad()
def test_an_interrupted_encoding_leaves_nothing_behind(a14b_runner: Runner) -> None:
    vae: Any = a14b_runner._loaded.vae
    video = torch.rand(1, 3, 9, 64, 96, generator=torch.Generator().manual_seed(1))
    groups = [video[:, :, :1], video[:, :, 1:5], video[:, :, 5:]]
    whole = encode_frames(vae, groups)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_frames(vae, groups, fail)

    assert torch.equal(encode_frames(vae, groups), whole)


@pytest.mark.parametrize(
    ("frames", "of_the_last"), [(9, [3]), (8, [2, 3]), (6, [0, 1, 2, 3]), (5, [3]), (2, [0, 1, 2, 3])]
)
@torch.no_grad()
def test_the_delivered_video_ends_with_the_last_image(frames: int, of_the_last: list[int], a14b_runner: Runner) -> None:
    pipe, geometry = a14b_runner._loaded.image_pipe, Geometry.fit(96, 64, frames, a14b_runner._loaded.grid)
    first, last = gradient(96, 64), gradient(64, 96).resize((96, 64))

    (tensor,) = condition_tensors(pipe, Images(first, last), geometry)
    (alone,) = condition_tensors(pipe, Images(first), geometry)

    expected = torch.zeros(4, tensor.shape[2])
    expected[:, 0] = 1
    assert torch.equal(alone[0, :4, :, 0, 0], expected)
    expected[of_the_last, -1] = 1
    assert torch.equal(tensor[0, :4, :, 0, 0], expected)
    assert torch.equal(tensor[:, :, 0], alone[:, :, 0])
    assert not torch.equal(tensor[:, 4:, -1], alone[:, 4:, -1])


def test_a_damaged_image_processor_is_refused_by_name(tmp_path: Path) -> None:
    folder = i2v_folder(tmp_path / "weights") / "image_processor"
    assert read_image_processor(folder, SIDE).crop_size["height"] == SIDE
    with pytest.raises(UnsupportedModelError, match="makes images of 28 and 28 pixels, and the image encoder takes 42"):
        read_image_processor(folder, 42)
    change(folder / "preprocessor_config.json", size={"shortest_edge": 10**9})
    with pytest.raises(UnsupportedModelError, match="makes images of 1000000000 and 28 pixels"):
        read_image_processor(folder, SIDE)

    (folder / "preprocessor_config.json").write_text("[")
    with pytest.raises(WeightsNotFoundError, match=r"image_processor/preprocessor_config\.json cannot be read"):
        read_image_processor(folder, SIDE)
