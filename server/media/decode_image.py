"""Turns the file of a client into an upright RGB image, in a process of its own.

python -P -m server.media.decode_image INPUT OUTPUT   # prints digest, width, height and warnings as JSON

INPUT has the file itself, or its base64, which may be a data URL. OUTPUT becomes a PNG file.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from pipelines.stages.conditioning.images import image_digest
from server.media.content import file_in
from server.media.limits import IMAGE_BYTES, IMAGE_FORMATS, RefusedInputError, run

MAX_BYTES = IMAGE_BYTES
"""Limit of a file, decoded from base64."""

MAX_PIXELS = 64_000_000

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
BACKGROUND = (255, 255, 255)
"""Transparent parts are shown on this colour."""

_COMPRESSION = 1


def decode(content: bytes) -> tuple[Image.Image, list[str]]:
    """Return an upright RGB image and what its sender should know, from a file or its base64.

    Raises RefusedInputError.
    """
    image, warnings = _opened(file_in(content, "an image", MAX_BYTES))
    try:
        upright = ImageOps.exif_transpose(image)
        return _rgb(upright, warnings), warnings
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RefusedInputError("is damaged or not complete") from error


def _opened(content: bytes) -> tuple[Image.Image, list[str]]:
    """Return a decoded image, and a warning if it is animated. Its size is checked before."""
    # the limit below is lower, and checked before anything is decoded
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RefusedInputError(f"must be {IMAGE_FORMATS}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RefusedInputError(f"must have at most {MAX_PIXELS // 10**6} megapixels, not {width}x{height}")
    try:
        is_animated = getattr(image, "is_animated", False)
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RefusedInputError("is damaged or not complete") from error
    return image, ["is animated: only its first frame is used"] if is_animated else []


def _rgb(image: Image.Image, warnings: list[str]) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits a pixel, grey
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("P", "PA", "RGBA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if profile:
            alpha = image.getchannel("A")
            image = _in_srgb(image.convert("RGB"), profile).convert("RGBA")
            image.putalpha(alpha)
        if image.getchannel("A").histogram()[255] < image.width * image.height:
            warnings.append("has transparent parts, which are shown on white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    elif profile and image.mode in ("RGB", "CMYK", "L"):
        image = _in_srgb(image, profile)
    return image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image from the colours of its profile; one that cannot be read is ignored."""
    try:
        converted = ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


def main() -> None:
    """Decode one file."""
    source, target = map(Path, sys.argv[1:3])

    def work() -> dict[str, Any]:
        image, warnings = decode(source.read_bytes())
        image.info.clear()
        image.save(target, "PNG", compress_level=_COMPRESSION)
        return {"digest": image_digest(image), "width": image.width, "height": image.height, "warnings": warnings}

    run(work)


if __name__ == "__main__":
    main()
