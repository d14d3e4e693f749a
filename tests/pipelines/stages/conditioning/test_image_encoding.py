"""Images become what a model is conditioned on, whole or in tiles."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.runner.runner import Runner
from pipelines.stages.conditioning.image_encoding import condition_tensors, read_image_processor
from pipelines.stages.conditioning.images import Images
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.models.wan_image import SIDE, change, i2v_a14b_folder, i2v_folder


@pytest.fixture(scope="module")
def a14b_runner(processor: str, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    spec = ModelSpec("a14b", fps=16, pipeline_class="WanImageToVideoPipeline")
    return Runner.load(spec, i2v_a14b_folder(tmp_path_factory.mktemp("a14b") / "weights"), "cpu")


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


@pytest.mark.parametrize("last", [None, gradient(64, 96).resize((320, 64))])
@torch.no_grad()
def test_a_condition_in_tiles_has_the_same_mask_and_nearly_the_same_latents(
    last: Image.Image | None, a14b_runner: Runner
) -> None:
    pipe, geometry = a14b_runner._loaded.image_pipe, Geometry.fit(320, 64, 9, a14b_runner._loaded.grid)
    images, groups = Images(gradient(320, 64), last), Counter[str]()

    (whole,) = condition_tensors(pipe, images, geometry, lambda: groups.update(whole=1))
    (tiled,) = condition_tensors(pipe, images, geometry, lambda: groups.update(tiled=1), tile=256)

    assert torch.equal(tiled[:, :4], whole[:, :4])
    assert 0 < (tiled[:, 4:] - whole[:, 4:]).norm() / whole[:, 4:].norm() < 0.1
    # two tiles side by side
    assert groups == {"whole": 3, "tiled": 6}


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
