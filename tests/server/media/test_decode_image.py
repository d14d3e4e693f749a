"""Every kind of image that clients send becomes the right picture, or a sentence about what is wrong with it."""

import base64
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipelines.stages.conditioning.images import image_digest
from server.core.errors import UnavailableError
from server.media.decode_image import MAX_BYTES, decode
from server.media.limits import RefusedInputError
from server.media.process import run_child

RED, BLUE, GREY = (220, 30, 40), (20, 40, 200), (128, 128, 128)


def halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """The left half red, the right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_shows(image: Image.Image, left: tuple[int, ...], right: tuple[int, ...], most: int = 0) -> None:
    """Assert the colours in the middle of both halves."""
    assert image.mode == "RGB"
    width, height = image.size
    for column, colour in ((width // 4, left), (3 * width // 4, right)):
        found = image.getpixel((column, height // 2))
        assert np.abs(np.subtract(found, colour)).max() <= most, (found, colour)


@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        ("PNG", {}, 0),
        ("PNG", {"optimize": True}, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 12),
        ("JPEG", {"quality": 95}, 12),
        ("JPEG", {"quality": 95, "progressive": True}, 12),
    ],
)
def test_each_format_is_read(kind: str, options: dict[str, Any], most: int) -> None:
    image, warnings = decode(encoded(halves(), kind, **options))

    assert image.size == (40, 20)
    assert_shows(image, RED, BLUE, most)
    assert not warnings


@pytest.mark.parametrize(
    "wrap",
    [
        base64.b64encode,
        lambda raw: base64.b64encode(raw).rstrip(b"="),
        base64.urlsafe_b64encode,
        base64.encodebytes,
        lambda raw: b"data:image/png;base64," + base64.b64encode(raw),
        lambda raw: b"data:image/jpeg;charset=utf-8;base64," + base64.b64encode(raw),
        lambda raw: b" DATA:;BASE64," + base64.encodebytes(raw),
    ],
)
def test_base64_and_data_urls_stand_for_the_file_whatever_type_they_name(wrap: Callable[[bytes], bytes]) -> None:
    raw = encoded(halves((41, 23)))

    assert decode(wrap(raw))[0].tobytes() == decode(raw)[0].tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(orientation: int) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = halves()
    lying = image.transpose(turned[orientation]) if orientation in turned else image
    exif = Image.Exif()
    exif[0x0112] = orientation

    upright, _ = decode(encoded(lying, "PNG", exif=exif))

    assert upright.tobytes() == image.tobytes()
    assert upright.size == image.size


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_parts_are_shown_on_white_and_said(mode: str) -> None:
    image = halves().convert("RGBA")
    image.putalpha(255)
    image.paste((0, 0, 0, 0), (20, 0, 40, 20))
    if mode == "P":
        content = encoded(image.quantize(8), "PNG")
    elif mode == "PA":
        content = encoded(image.convert("LA"), "WEBP", lossless=True, exact=True)
    else:
        content = encoded(image.convert(mode), "PNG")

    shown, warnings = decode(content)

    assert shown.getpixel((30, 10)) == (255, 255, 255)
    assert shown.getpixel((10, 10)) != (255, 255, 255)
    assert warnings == ["has transparent parts, which are shown on white"]
    opaque, none = decode(encoded(halves().convert("RGBA")))
    assert opaque.tobytes() == halves().tobytes()
    assert not none


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    shown, _ = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))

    assert_shows(shown, (127, 127, 127), (127, 127, 127), 1)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (8, 8), 128), GREY),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), GREY),
        (Image.new("P", (8, 8), 0), (0, 0, 0)),
    ],
    ids=["grey", "one bit", "16 bits", "palette"],
)
def test_other_modes_become_rgb(image: Image.Image, colour: tuple[int, ...]) -> None:
    assert_shows(decode(encoded(image))[0], colour, colour)


def test_cmyk_becomes_rgb() -> None:
    shown, _ = decode(encoded(halves().convert("CMYK"), "JPEG", quality=95))

    assert_shows(shown, RED, BLUE, 12)


def test_the_colours_of_a_profile_are_converted() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert_shows(decode(encoded(halves(), icc_profile=srgb))[0], RED, BLUE, 1)
    # one that is not for RGB, and one that is none, are ignored
    assert_shows(decode(encoded(halves(), icc_profile=profile.tobytes()))[0], RED, BLUE)
    assert_shows(decode(encoded(halves(), icc_profile=b"no profile"))[0], RED, BLUE)


def test_transparent_and_indexed_images_are_converted_too() -> None:
    # a profile that has red and green the other way round says more than any real one
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, green = (profile[tags[name] + 4 : tags[name] + 12] for name in (b"rXYZ", b"gXYZ"))
    profile[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12] = green
    profile[tags[b"gXYZ"] + 4 : tags[b"gXYZ"] + 12] = red
    image = Image.new("RGB", (8, 8), (255, 0, 0))

    for changed in (image, image.convert("RGBA"), image.convert("P"), image.quantize(4)):
        assert_shows(decode(encoded(changed, icc_profile=bytes(profile)))[0], (0, 255, 0), (0, 255, 0), 2)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used_and_said(kind: str) -> None:
    content = encoded(halves(), kind, save_all=True, append_images=[Image.new("RGB", (40, 20), GREY)], lossless=True)

    image, warnings = decode(content)

    assert_shows(image, RED, BLUE, 2)
    assert warnings == ["is animated: only its first frame is used"]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
NO_IMAGE = "must be a JPEG, PNG, WebP, BMP or GIF file"
A_URL = "must be an image, or a URL of at most 4096 characters"
DAMAGED = "is damaged or not complete"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (bomb(50_000, 50_000), "must have at most 64 megapixels, not 50000x50000"),
        (bomb(8001, 8000), "must have at most 64 megapixels, not 8001x8000"),
        (bomb(100, 100), DAMAGED),
        (encoded(halves((400, 300)), "JPEG")[:-300], DAMAGED),
        (encoded(halves((400, 300)))[:200], DAMAGED),
        (encoded(halves((400, 300)), "WEBP")[:100], NO_IMAGE),
        (SVG, NO_IMAGE),
        (b"data:image/svg+xml;base64," + base64.b64encode(SVG), NO_IMAGE),
        (b"data:image/svg+xml," + SVG, "must be in base64 if it is a data URL: data:image/png;base64,…"),
        (b"%PDF-1.7\n" + encoded(halves()), NO_IMAGE),
        (b"https://example.com/ox.png", A_URL),
        (b" HTTP://169.254.169.254/latest", A_URL),
        (b"file:///etc/passwd", A_URL),
        (b"", NO_IMAGE),
        (b"data:image/png;base64,", NO_IMAGE),
        (b"data:image/png;base64,!!!", "is not valid base64"),
        (b"A", "is not valid base64"),
        (encoded(halves(), "TIFF"), NO_IMAGE),
        (encoded(halves(), "ICO"), NO_IMAGE),
        (bytes(MAX_BYTES + 1), "must have at most 20 MB"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused_with_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(RefusedInputError) as refused:
        decode(content)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (8000, 8)])
def test_strips_and_points_are_images(size: tuple[int, int]) -> None:
    assert decode(encoded(halves(size)))[0].size == size


def test_a_file_that_is_two_kinds_at_once_is_the_one_it_begins_as() -> None:
    both = encoded(halves()) + b"<script>alert(1)</script>" + encoded(Image.new("RGB", (9, 9), GREY), "JPEG")

    image, _ = decode(both)

    assert_shows(image, RED, BLUE)


def test_changed_bytes_never_end_in_another_error() -> None:
    rng = random.Random(0)
    seeds = [encoded(halves((60, 40)), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP")]
    for number in range(600):
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            image, _ = decode(bytes(content))
        except RefusedInputError:
            continue
        assert image.mode == "RGB"


async def test_the_child_writes_the_image_and_tells_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(encoded(halves(), "GIF"))

    told = await run_child("server.media.decode_image", str(tmp_path / "sent"), str(tmp_path / "image.png"))

    with Image.open(tmp_path / "image.png") as image:
        assert image.tobytes() == halves().tobytes()
        assert told == {"digest": image_digest(image), "width": 40, "height": 20, "warnings": []}


async def test_the_child_refuses_by_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(bomb(50_000, 50_000))

    with pytest.raises(RefusedInputError, match="64 megapixels"):
        await run_child("server.media.decode_image", str(tmp_path / "sent"), str(tmp_path / "image.png"))
    assert not (tmp_path / "image.png").exists()


async def test_a_child_that_ends_otherwise_is_a_refusal_too() -> None:
    with pytest.raises(RefusedInputError, match="needs too much memory or time"):
        await run_child("server.media.decode_image")


async def test_a_child_that_cannot_read_or_write_is_the_servers_fault(tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(encoded(halves()))

    for source, target in (("missing", "image.png"), ("sent", "missing/image.png")):
        with pytest.raises(UnavailableError, match="cannot keep inputs now: No such file"):
            await run_child("server.media.decode_image", str(tmp_path / source), str(tmp_path / target))
