"""An image keeps its identity, and covers exactly the part of a frame that is delivered."""

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import InputImageError
from pipelines.core.geometry import Geometry, Grid
from pipelines.stages.conditioning.images import check_image, fitted, image_digest

GRID = Grid(32, 32, 4)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 / max(1, width - 1), rows * 255 / max(1, height - 1)
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=2).astype(np.uint8))


def test_equal_images_have_equal_digests_and_no_others() -> None:
    image = gradient(6, 4)
    changed = image.copy()
    changed.putpixel((5, 3), (0, 0, 1))
    same_bytes = Image.frombytes("RGB", (4, 6), image.tobytes())

    assert image_digest(image) == image_digest(image.copy())
    assert len({image_digest(each) for each in (image, changed, same_bytes)}) == 3


def test_an_image_of_the_size_itself_is_unchanged_and_its_edges_are_repeated_around_it() -> None:
    geometry = Geometry.fit(100, 60, 9, GRID)
    image = gradient(100, 60)

    whole = np.asarray(fitted(image, geometry))

    assert whole.shape == (64, 128, 3)
    rows, columns = geometry.crop
    assert (whole[rows, columns] == np.asarray(image)).all()
    assert (whole[rows, : columns.start] == whole[rows, columns.start : columns.start + 1]).all()
    assert (whole[rows, columns.stop :] == whole[rows, columns.stop - 1 : columns.stop]).all()
    assert (whole[: rows.start] == whole[rows.start]).all()
    assert (whole[rows.stop :] == whole[rows.stop - 1]).all()


@pytest.mark.parametrize(("width", "height"), [(640, 96), (96, 640), (2000, 1200), (100, 60), (1, 4000), (4000, 1)])
def test_another_ratio_is_cropped_around_its_middle_and_not_stretched(width: int, height: int) -> None:
    geometry = Geometry.fit(96, 64, 9, GRID)

    made = np.asarray(fitted(gradient(width, height), geometry)).astype(int)

    assert made.shape == (64, 96, 3)
    scale = max(96 / width, 64 / height)
    # the range of each colour is the share of the image's side that is left
    for channel, axis, side, asked in ((0, 1, width, 96), (1, 0, height, 64)):
        line = made[..., channel].mean(axis=1 - axis)
        if side > 1:
            assert line[-1] - line[0] == pytest.approx(255 * asked / (side * scale), abs=8)
            assert line.mean() == pytest.approx(127.5, abs=4)


@pytest.mark.parametrize(
    ("image", "digest", "sentence"),
    [
        (None, "0" * 64, "The request's image is missing."),
        (gradient(4, 4), None, "The request has no image."),
        (gradient(4, 4), "0" * 64, "The image is not the request's: its file may be damaged."),
        (gradient(4, 4).convert("RGBA"), image_digest(gradient(4, 4)), "The image must be RGB, not RGBA."),
    ],
)
def test_an_image_that_is_not_the_requests_is_refused(
    image: Image.Image | None, digest: str | None, sentence: str
) -> None:
    with pytest.raises(InputImageError) as refused:
        check_image(image, digest)
    assert str(refused.value) == sentence


def test_the_requests_image_or_none_for_none_passes() -> None:
    check_image(gradient(4, 4), image_digest(gradient(4, 4)))
    check_image(None, None)
