"""Simple painted landscapes: sky, sun or moon, mountains, a lake or a meadow, and an animal in front.

The composition is always nearly the same, so that a small model can learn it; the caption decides the hour, the land,
the mountains and the animal.
"""

from dataclasses import dataclass
from math import pi
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.core.progress import Frames
from pipelines.demo.scenes import Landscape

Floats = npt.NDArray[np.floating]
Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Light:
    """The colours of an hour of the day."""

    zenith: Rgb
    horizon: Rgb
    disc: Rgb
    far: Rgb
    near: Rgb
    snow: Rgb
    grass: Rgb
    grass_below: Rgb
    animal_light: float


_LIGHTS: Final = {
    "day": _Light(
        (92, 164, 236), (206, 232, 250), (255, 236, 150), (134, 156, 196), (92, 116, 150), (246, 250, 255),
        (126, 188, 84), (70, 140, 60), 1.0,
    ),
    "sunset": _Light(
        (92, 70, 150), (255, 170, 96), (255, 226, 120), (150, 96, 140), (104, 64, 110), (255, 206, 190),
        (122, 120, 60), (74, 78, 44), 0.82,
    ),
    "night": _Light(
        (10, 16, 48), (44, 60, 112), (240, 240, 220), (44, 54, 96), (26, 34, 66), (150, 164, 206),
        (28, 66, 56), (14, 38, 36), 0.6,
    ),
}  # fmt: skip

# peaks as (x, height above the horizon, half-width), in fractions of the frame
_FAR_PEAKS: Final = ((0.16, 0.26, 0.26), (0.50, 0.33, 0.30), (0.86, 0.24, 0.26))
_NEAR_PEAKS: Final = ((-0.02, 0.15, 0.26), (0.33, 0.13, 0.22), (0.70, 0.19, 0.24), (1.05, 0.13, 0.22))
_HORIZON: Final = 0.52
_SHORE: Final = 0.80


def render_landscape(scene: Landscape, width: int, height: int, num_frames: int) -> Frames:
    """Paint a landscape: RGB frames (num_frames, height, width, 3), one byte a channel."""
    light = _LIGHTS[scene.hour]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for frame, time in zip(frames, np.linspace(0.0, 1.0, num_frames), strict=True):
        sky = _sky(scene, light, x, y, float(time))
        picture = _ground(scene, light, sky, x, y, float(time))
        if scene.animal is not None:
            _draw_animal(picture, scene, light, float(time))
        frame[:] = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    return frames


def _sky(scene: Landscape, light: _Light, x: Floats, y: Floats, time: float) -> Floats:
    """Everything above the horizon, including mountains; the lake mirrors it."""
    height, width = y.shape[0], x.shape[1]
    picture = _gradient(light.zenith, light.horizon, np.clip(y / _HORIZON, 0, 1), width)
    peaks, sun, _ = scene.jitter
    centre_x = 0.74 + 0.03 * sun
    centre_y = 0.17 + (0.10 * time if scene.hour == "sunset" else -0.04 * time)
    span = min(width, height)
    distance = np.hypot((x - centre_x) * width, (y - centre_y) * height) / span
    glow = np.exp(-((distance / 0.16) ** 2))[..., None] * (0.25 if scene.hour == "night" else 0.5)
    picture += (np.array(light.disc, np.float32) - picture) * glow
    _blend(picture, light.disc, np.clip((0.068 - distance) * span + 0.5, 0, 1))
    if scene.hour != "night":
        for drift, row, size in ((0.16, 0.13, 0.10), (0.48, 0.24, 0.08)):
            _cloud(picture, light, x - (drift + 0.16 * time), y - row, size)
    if scene.mountains:
        for colour, ridge in (
            (light.far, _ridge(_FAR_PEAKS, x, 0.015 * peaks)),
            (light.near, _ridge(_NEAR_PEAKS, x, -0.015 * peaks)),
        ):
            cover = np.clip((y - (_HORIZON - ridge)) * height + 0.5, 0, 1)
            _blend(picture, colour, cover)
            if ridge.max() > 0.22:
                jagged = 0.235 + 0.012 * np.sin(x * 60)
                _blend(picture, light.snow, cover * np.clip((_HORIZON - jagged - y) * height + 0.5, 0, 1))
    else:
        hill = 0.05 + 0.03 * np.sin(2 * pi * (x * 1.3 + 0.1 + 0.02 * peaks))
        _blend(picture, light.near, np.clip((y - (_HORIZON - hill)) * height + 0.5, 0, 1))
    return picture


def _ground(scene: Landscape, light: _Light, sky: Floats, x: Floats, y: Floats, time: float) -> Floats:
    height, width = y.shape[0], x.shape[1]
    picture = sky.copy()
    horizon = round(_HORIZON * height)
    if scene.land == "lake":
        rows = np.arange(horizon, height)
        mirrored = np.clip(horizon - 1 - ((rows - horizon) * 1.7).astype(int), 0, horizon - 1)
        water = sky[mirrored] * 0.8 + np.array(light.zenith, np.float32) * 0.16
        below = (y[horizon:] - _HORIZON) / (1 - _HORIZON)
        ripple = np.sin(2 * pi * (below * 7 - time) + 1.2 * np.sin(2 * pi * (x * 2 + time)))
        picture[horizon:] = water + (8 * ripple * (0.3 + below))[..., None]
        shore = _SHORE + 0.035 * np.sin(2 * pi * (x * 0.9 + 0.15))
    else:
        shore = np.full_like(x, _HORIZON)
    grass = _gradient(light.grass, light.grass_below, np.clip((y - shore.min()) / (1 - shore.min()), 0, 1), width)
    if scene.land == "meadow":
        wave = np.sin(2 * pi * (y * 5 + 0.15 * np.sin(2 * pi * (x + time))))
        grass += (5 * wave)[..., None]
    cover = np.clip((y - shore) * height + 0.5, 0, 1)[..., None]
    return picture + (grass - picture) * cover


def _draw_animal(picture: Floats, scene: Landscape, light: _Light, time: float) -> None:
    """An animal facing left, grazing or paddling: ellipses and legs, in units of its own size."""
    height, width = picture.shape[:2]
    size = 0.30 * min(height, width * 0.8)
    swims = scene.animal == "duck" and scene.land == "lake"
    middle = (0.36 + 0.02 * scene.jitter[2] - 0.05 * time) * width
    feet = (0.70 if swims else 0.92) * height
    nod = 0.05 * np.sin(2 * pi * time)
    left, right = (int(np.clip(middle + side * 1.3 * size, 0, width)) for side in (-1, 1))
    top, bottom = int(max(0, feet - 1.35 * size)), int(min(height, feet + 0.2 * size))
    x = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - np.float32(middle)) / np.float32(size)
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - np.float32(feet)) / np.float32(size)
    patch = picture[top:bottom, left:right]
    step = 0.05 * np.sin(4 * pi * time)
    for colour, parts in _anatomy(str(scene.animal), float(nod), float(step)):
        shade = tuple(int(channel * light.animal_light) for channel in colour)
        for part in parts:
            _blend(patch, (shade[0], shade[1], shade[2]), np.clip(-_ellipse(x, y, *part) * size + 0.5, 0, 1))


Part = tuple[float, float, float, float]
"""An ellipse: centre x, centre y (0 at the feet, negative upwards), half-width, half-height."""


def _anatomy(animal: str, nod: float, step: float) -> list[tuple[Rgb, list[Part]]]:
    legs = [(x + sway, -0.2, 0.065, 0.24) for x, sway in ((-0.38, step), (-0.2, -step), (0.28, step), (0.44, -step))]
    match animal:
        case "ox":
            brown, dark, horn = (124, 72, 40), (84, 46, 26), (240, 226, 190)
            return [
                (dark, legs),
                (horn, [(-0.83, -0.98 + nod, 0.05, 0.16), (-0.55, -1.0 + nod, 0.05, 0.16)]),
                (brown, [(0.04, -0.56, 0.6, 0.31), (-0.32, -0.66, 0.3, 0.28), (-0.69, -0.74 + nod, 0.2, 0.2)]),
                (dark, [(-0.84, -0.66 + nod, 0.1, 0.1), (0.66, -0.5, 0.04, 0.24)]),
            ]
        case "horse":
            coat, mane = (168, 104, 56), (60, 36, 24)
            long_legs = [(x, -0.24, 0.05, 0.28) for x, *_ in legs]
            return [
                (mane, [(0.62, -0.52, 0.07, 0.27), (-0.4, -0.98 + nod, 0.14, 0.3)]),
                (coat, [*long_legs, (0.04, -0.6, 0.54, 0.22), (-0.46, -0.86 + nod, 0.15, 0.34)]),
                (coat, [(-0.64, -1.1 + nod, 0.22, 0.12), (-0.46, -1.24 + nod, 0.05, 0.1)]),
            ]
        case "sheep":
            wool, face = (244, 240, 230), (58, 52, 52)
            return [
                (face, [(x, -0.14, 0.05, 0.17) for x, *_ in legs]),
                (wool, [(x, y, 0.24, 0.22) for x in (-0.32, 0.0, 0.32) for y in (-0.36, -0.58)]),
                (face, [(-0.6, -0.56 + nod, 0.16, 0.18)]),
            ]
        case "duck":
            body, bill = (250, 214, 66), (240, 130, 40)
            return [
                (bill, [(-0.62, -0.6 + nod, 0.16, 0.06)]),
                (body, [(0.0, -0.2, 0.46, 0.24), (0.42, -0.34, 0.14, 0.12), (-0.36, -0.6 + nod, 0.22, 0.22)]),
                ((30, 26, 26), [(-0.44, -0.65 + nod, 0.04, 0.04)]),
            ]
        case _:
            raise ValueError(f"no such animal: {animal}")


def _ellipse(x: Floats, y: Floats, cx: float, cy: float, rx: float, ry: float) -> Floats:
    """The approximate distance to an ellipse's edge; negative inside."""
    return (np.hypot((x - cx) / rx, (y - cy) / ry) - 1) * np.float32(min(rx, ry))


def _ridge(peaks: tuple[tuple[float, float, float], ...], x: Floats, shift: float) -> Floats:
    ridge = np.zeros_like(x)
    for centre, top, half in peaks:
        ridge = np.maximum(ridge, top * (1 - np.abs(x - centre - shift) / half))
    rough = 0.008 * np.sin(x * 47) + 0.005 * np.sin(x * 91 + 1)
    return np.where(ridge > 0.01, ridge + rough, ridge).astype(np.float32)


def _cloud(picture: Floats, light: _Light, x: Floats, y: Floats, size: float) -> None:
    height = picture.shape[0]
    white = tuple(round(0.75 * 255 + 0.25 * channel) for channel in light.horizon)
    for dx, dy, scale in ((-0.6, 0.1, 0.6), (0.0, -0.05, 0.9), (0.65, 0.1, 0.6)):
        edge = _ellipse(x / size, y / size, dx, dy * 0.5, scale, scale * 0.42)
        _blend(picture, (white[0], white[1], white[2]), np.clip(0.5 - edge * size * height, 0, 1) * 0.85)


def _gradient(above: Rgb, below: Rgb, share: Floats, width: int) -> Floats:
    top, bottom = np.array(above, np.float32), np.array(below, np.float32)
    column = top + (bottom - top) * share[..., None]
    return np.broadcast_to(column, (share.shape[0], width, 3)).astype(np.float32)


def _blend(picture: Floats, colour: Rgb, cover: Floats) -> None:
    picture += (np.array(colour, np.float32) - picture) * cover[..., None]
