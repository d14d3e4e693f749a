"""Images that a video begins with: their identity, and how they are fitted to a video's size."""

import hashlib

import numpy as np
from PIL import Image, ImageOps

from pipelines.core.errors import InputImageError
from pipelines.core.geometry import Geometry


def image_digest(image: Image.Image) -> str:
    """Return what identifies an RGB image: the SHA-256 of its size and pixels, as hexadecimal digits."""
    width, height = image.size
    return hashlib.sha256(b"%dx%d " % (width, height) + image.tobytes()).hexdigest()


def check_image(image: Image.Image | None, digest: str | None) -> None:
    """Raise InputImageError unless an image is there exactly if a request names one, and is that image."""
    if image is None and digest is None:
        return
    if image is None or digest is None:
        raise InputImageError("The request's image is missing." if image is None else "The request has no image.")
    if image.mode != "RGB":
        raise InputImageError(f"The image must be RGB, not {image.mode}.")
    if image_digest(image) != digest:
        raise InputImageError("The image is not the request's: its file may be damaged.")


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
