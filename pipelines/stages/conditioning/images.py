"""Images that a video begins and ends with: their identity, and how they are fitted to a video's size."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from pipelines.core.errors import InputImageError
from pipelines.core.geometry import Geometry
from pipelines.core.request import ImageMode, VideoParams
from pipelines.models.family import ImageInputs, InputUse


@dataclass(frozen=True, slots=True)
class Images:
    """The RGB images that a video begins and ends with, each None if a request has none."""

    first: Image.Image | None = None
    last: Image.Image | None = None

    @property
    def given(self) -> list[Image.Image]:
        """Those that there are, in this order."""
        return [image for image in (self.first, self.last) if image is not None]


def image_digest(image: Image.Image) -> str:
    """Return what identifies an RGB image: the SHA-256 of its size and pixels, as hexadecimal digits."""
    width, height = image.size
    return hashlib.sha256(b"%dx%d " % (width, height) + image.tobytes()).hexdigest()


def named(params: VideoParams, images: Images) -> VideoParams:
    """Return a request that names its images."""
    first, last = (None if image is None else image_digest(image) for image in (images.first, images.last))
    return replace(params, image=params.image or first, last_image=params.last_image or last)


def check_images(images: Images, params: VideoParams, inputs: ImageInputs) -> None:
    """Raise InputImageError unless the images are those that a request names, and those that a model takes."""
    _check_image(images.first, params.image, "image")
    _check_image(images.last, params.last_image, "last image")
    _check_mode(images, params.image_mode, inputs)
    if images.first is None and inputs.first is InputUse.REQUIRED:
        raise InputImageError("This model needs an image: it makes videos that begin with one.")
    if images.last is not None and inputs.last is InputUse.NONE:
        raise InputImageError("This model takes no last image: it cannot make videos that end with one.")
    if images.last is None and inputs.last is InputUse.REQUIRED:
        raise InputImageError("This model needs a last image: it makes videos between two images.")
    if images.last is None:
        return
    if images.first is None:
        raise InputImageError("A video with a last image needs a first one.")
    if params.num_frames < 2:
        raise InputImageError("A video with a first and a last image has at least 2 frames.")


def _check_mode(images: Images, mode: ImageMode | None, inputs: ImageInputs) -> None:
    if mode is not None and inputs.first is not InputUse.NONE:
        raise InputImageError("image_mode must be left out: this model is trained for images and needs none.")
    if mode is not None and images.first is None:
        raise InputImageError("image_mode needs an image, and the request has none.")
    if mode is None and images.first is not None and inputs.first is InputUse.NONE:
        raise InputImageError(
            "This model makes videos from text only, without an image. "
            f"With image_mode {ImageMode.FIRST_FRAME} it can still begin with one, though it was not trained to."
        )


def _check_image(image: Image.Image | None, digest: str | None, name: str) -> None:
    if image is None and digest is None:
        return
    if image is None or digest is None:
        raise InputImageError(f"The request's {name} is missing." if image is None else f"The request has no {name}.")
    if image.mode != "RGB":
        raise InputImageError(f"The {name} must be RGB, not {image.mode}.")
    if image_digest(image) != digest:
        raise InputImageError(f"The {name} is not the request's: its file may be damaged.")


def fitted(image: Image.Image, geometry: Geometry) -> Image.Image:
    """Return an RGB image in the size that is generated for a video.

    It covers the delivered part: what is left over on two sides is cut off equally. Around that part its edges are
    repeated, so that each delivered pixel of the first frame lies on one of the image.
    """
    covering = ImageOps.fit(image, (geometry.width, geometry.height), Image.Resampling.LANCZOS)
    rows, columns = geometry.crop
    margins = (
        (rows.start, geometry.full_height - rows.stop),
        (columns.start, geometry.full_width - columns.stop),
        (0, 0),
    )
    return Image.fromarray(np.pad(np.asarray(covering), margins, mode="edge"))
