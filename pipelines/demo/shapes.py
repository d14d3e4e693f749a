"""Drawn clips of one or two plain shapes that move over a plain background.

Everything is large, and its course is fixed by the motion up to a small jitter: a model trained for an hour on two
cores learns what the words decide, not how to scatter.
"""

from dataclasses import dataclass
from math import pi
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.spec import Frames

Floats = npt.NDArray[np.float32]

SHAPES: Final = ("circle", "square", "triangle", "star")
MOTIONS: Final = ("left", "right", "up", "down", "bouncing", "growing", "spinning")
PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (222, 40, 44),
    "yellow": (248, 208, 40),
    "green": (40, 160, 72),
    "blue": (40, 92, 226),
    "purple": (150, 56, 196),
    "white": (246, 246, 246),
    "black": (18, 18, 22),
    "grey": (128, 130, 134),
}
COLOURS: Final = ("red", "yellow", "green", "blue", "purple", "white")
BACKGROUNDS: Final = ("black", "white", "grey", "blue", "green", "yellow")
SHORT_CLIP: Final = 49
"""Up to this many frames a thing bounces and turns half as often as in a longer clip."""
SIZES: Final = {"small": 0.17, "medium": 0.22, "large": 0.27}
"""Radius of an object, as a fraction of the frame's shorter side."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: what it is, and its radius as a fraction of the frame's shorter side."""

    shape: str
    colour: str
    radius: float


@dataclass(frozen=True, slots=True)
class ShapeScene:
    """One thing that moves, or two that float side by side (`motion` is then None)."""

    things: tuple[Thing, ...]
    background: str
    motion: str | None
    jitter: tuple[float, float, float]
    """Shift along x, along y, and of the course's phase, each in -1 … 1."""


def can_move(shape: str, motion: str) -> bool:
    """Whether the motion would show: nobody can see a plain circle spin."""
    return not (shape == "circle" and motion == "spinning")


def render_shapes(scene: ShapeScene, width: int, height: int, num_frames: int) -> Frames:
    """Draw a scene: RGB frames (num_frames, height, width, 3), one byte a channel, edges antialiased."""
    frames = np.repeat(_backdrop(scene.background, width, height)[None], num_frames, axis=0)
    short = min(width, height)
    for index, thing in enumerate(scene.things):
        for frame, time in zip(frames, np.linspace(0.0, 1.0, num_frames), strict=True):
            if len(scene.things) == 1:
                x, y, scale, angle = _course(scene, float(time), num_frames)
            else:
                x, y, scale, angle = _float(scene, index, float(time))
            radius = thing.radius * short * scale
            _paint(frame, thing, (x * width, y * height), radius, angle)
    return frames


def _course(scene: ShapeScene, time: float, num_frames: int) -> tuple[float, float, float, float]:
    """Centre (fractions of width and height), scale and angle (radians) of a single thing at `time` in 0 … 1."""
    across, upright, phase = scene.jitter
    x, y, scale, angle = 0.5 + 0.04 * across, 0.5 + 0.04 * upright, 1.0, 0.0
    travel = 0.5 - time + 0.04 * phase
    short_clip = num_frames <= SHORT_CLIP
    match scene.motion:
        case "left" | "right":
            x += 0.56 * travel if scene.motion == "left" else -0.56 * travel
        case "up" | "down":
            y += 0.5 * travel if scene.motion == "up" else -0.5 * travel
        case "bouncing":
            y = 0.72 + 0.02 * upright - 0.46 * abs(float(np.sin(pi * (2 if short_clip else 4) * time)))
        case "growing":
            scale = (0.45 + time) * (1 + 0.06 * phase)
        case "spinning":
            scale, angle = 1.1, 2 * pi * (0.5 if short_clip else 1.0) * time
    return x, y, scale, angle


def _float(scene: ShapeScene, index: int, time: float) -> tuple[float, float, float, float]:
    across, upright, _ = scene.jitter
    bob = 0.05 * np.sin(2 * pi * time + pi * index)
    return 0.27 + 0.46 * index + 0.02 * across, 0.5 + 0.04 * upright + float(bob), 0.85, 0.0


def _backdrop(name: str, width: int, height: int) -> Frames:
    """A plain colour, a little lighter above than below."""
    light = np.linspace(1.05, 0.92, height, dtype=np.float32)[:, None, None]
    column = np.clip(np.array(PALETTE[name], np.float32) * light, 0, 255)
    return np.broadcast_to(np.rint(column).astype(np.uint8), (height, width, 3)).copy()


def _paint(frame: Frames, thing: Thing, centre: tuple[float, float], radius: float, angle: float) -> None:
    height, width = frame.shape[:2]
    reach = radius * 1.5 + 2
    left, right = (int(np.clip(centre[0] + side * reach, 0, width)) for side in (-1, 1))
    top, bottom = (int(np.clip(centre[1] + side * reach, 0, height)) for side in (-1, 1))
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - np.float32(centre[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    cover = np.clip(0.5 - outside(thing.shape, x * cos + y * sin, y * cos - x * sin, radius), 0, 1)[..., None]
    under = frame[top:bottom, left:right].astype(np.float32)
    colour = np.array(PALETTE[thing.colour], np.float32)
    frame[top:bottom, left:right] = np.rint(under + (colour - under) * cover).astype(np.uint8)


def outside(shape: str, x: Floats, y: Floats, radius: float) -> Floats:
    """How far (x, y) pixels from the centre lies outside the shape, in pixels; negative inside."""
    match shape:
        case "circle":
            return np.hypot(x, y) - np.float32(radius)
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.88 * radius)
        case "triangle":
            # sits a little low, so that its bounding box is about centred
            lowered = y - np.float32(0.22 * radius)
            slope = np.abs(x) * np.float32(np.cos(pi / 6)) - lowered * np.float32(0.5)
            return np.maximum(slope, lowered) - np.float32(0.6 * radius)
        case "star":
            return _star(x, y, 1.2 * radius)
        case _:
            raise ValueError(f"no such shape: {shape}")


def _star(x: Floats, y: Floats, tip: float) -> Floats:
    """Five points: folded into half of one point, a star is one straight edge from its tip to its notch."""
    sector = 2 * pi / 5
    angle = np.abs(np.mod(np.arctan2(x, -y) + sector / 2, sector) - sector / 2)
    distance = np.hypot(x, y)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    notch = 0.45 * tip
    edge = np.array([notch * np.cos(sector / 2) - tip, notch * np.sin(sector / 2)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return ((along - tip) * normal[0] + across * normal[1]).astype(np.float32)
