"""An image keeps its identity, and covers exactly the part of a frame that is delivered."""

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import InputImageError
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.request import VideoParams
from pipelines.models.family import ImageInputs, InputUse
from pipelines.stages.conditioning.images import Images, check_images, fitted, image_digest, named

GRID = Grid(32, 32, 4)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 / max(1, width - 1), rows * 255 / max(1, height - 1)
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=2).astype(np.uint8))


ANY = ImageInputs(InputUse.OPTIONAL, InputUse.OPTIONAL)
FIRST = gradient(4, 4)


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
        check_images(Images(image), VideoParams("an ox", image=digest), ANY)
    assert str(refused.value) == sentence
    with pytest.raises(InputImageError) as refused:
        params = VideoParams("an ox", image=image_digest(FIRST), last_image=digest)
        check_images(Images(FIRST, image), params, ANY)
    assert str(refused.value) == sentence.replace("image", "last image")


def test_the_requests_images_or_none_for_none_pass() -> None:
    for images in (Images(), Images(FIRST), Images(FIRST, gradient(6, 4))):
        check_images(images, named(VideoParams("an ox"), images), ANY)


@pytest.mark.parametrize(
    ("images", "first", "last", "sentence"),
    [
        (
            Images(FIRST),
            InputUse.NONE,
            InputUse.NONE,
            "This model makes videos from text only, without an image. "
            "With image_mode first_frame it can still begin with one, though it was not trained to.",
        ),
        (Images(), InputUse.REQUIRED, InputUse.NONE, "This model needs an image: it makes videos that begin with one."),
        (
            Images(FIRST, FIRST),
            InputUse.OPTIONAL,
            InputUse.NONE,
            "This model takes no last image: it cannot make videos that end with one.",
        ),
        (
            Images(FIRST),
            InputUse.REQUIRED,
            InputUse.REQUIRED,
            "This model needs a last image: it makes videos between two images.",
        ),
        (Images(None, FIRST), InputUse.OPTIONAL, InputUse.OPTIONAL, "A video with a last image needs a first one."),
    ],
)
def test_images_that_the_model_does_not_take_or_lacks_are_refused(
    images: Images, first: InputUse, last: InputUse, sentence: str
) -> None:
    with pytest.raises(InputImageError) as refused:
        check_images(images, named(VideoParams("an ox"), images), ImageInputs(first, last))
    assert str(refused.value) == sentence


def test_a_video_of_one_frame_cannot_have_two_images() -> None:
    images = Images(FIRST, FIRST)
    with pytest.raises(InputImageError, match="at least 2 frames"):
        check_images(images, named(VideoParams("an ox", num_frames=1), images), ANY)
