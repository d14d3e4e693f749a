"""Draws clips of one or two plain shapes that move over a plain background.

Shapes are large, and the motion fixes their path up to a jitter of a few pixels, so that a model can learn them in some
hours on two cores. With several times the jitter, and with a square, a triangle and a star, a model learned colours and
motions but drew every shape as the same blob: the caption then said too little about any single pixel. So the shapes
differ by whole patches, not only by their corners.
"""

from math import pi
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.core.progress import Frames
from pipelines.demo.scenes import ShapeScene, Thing

Floats = npt.NDArray[np.float32]

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


def render_shapes(scene: ShapeScene, width: int, height: int, num_frames: int) -> Frames:
    """Draw a scene: RGB frames (num_frames, height, width, 3), one byte a channel, edges antialiased."""
    frames = np.repeat(_backdrop(scene.background, width, height)[None], num_frames, axis=0)
    short = min(width, height)
    for index, thing in enumerate(scene.things):
        for frame, time in zip(frames, np.linspace(0.0, 1.0, num_frames), strict=True):
            if len(scene.things) == 1:
                x, y, scale = _course(scene, float(time))
            else:
                x, y, scale = _float(scene, index, float(time))
            _paint(frame, thing, (x * width, y * height), thing.radius * short * scale)
    return frames


def _course(scene: ShapeScene, time: float) -> tuple[float, float, float]:
    """Centre (fractions of width and height) and scale of a single object at `time` in 0 … 1."""
    across, upright, phase = scene.jitter
    if scene.start is not None:
        return _course_from(scene.start, scene, time)
    x, y, scale = 0.5 + 0.008 * across, 0.5 + 0.012 * upright, 1.0
    travel = 0.5 - time + 0.01 * phase
    match scene.motion:
        case "left" | "right":
            x += 0.56 * travel if scene.motion == "left" else -0.56 * travel
        case "up" | "down":
            y += 0.5 * travel if scene.motion == "up" else -0.5 * travel
        case "growing":
            scale = (0.45 + time) * (1 + 0.03 * phase)
    return x, y, scale


def _course_from(start: tuple[float, float], scene: ShapeScene, time: float) -> tuple[float, float, float]:
    """The course from any start, which ends where such a motion usually ends."""
    (x, y), radius = start, scene.things[0].radius
    match scene.motion:
        case "left" | "right":
            x += ((0.22 if scene.motion == "left" else 0.78) - x) * time
        case "up" | "down":
            y += ((0.25 if scene.motion == "up" else 0.75) - y) * time
        case "growing":
            return x, y, min(1 + 0.27 * time / radius, 0.46 / radius)
    return x, y, 1.0


def _float(scene: ShapeScene, index: int, time: float) -> tuple[float, float, float]:
    across, upright, _ = scene.jitter
    bob = 0.05 * np.sin(2 * pi * time + pi * index)
    return 0.27 + 0.46 * index + 0.008 * across, 0.5 + 0.012 * upright + float(bob), 0.75


def _backdrop(name: str, width: int, height: int) -> Frames:
    """A plain colour, slightly lighter at the top."""
    light = np.linspace(1.05, 0.92, height, dtype=np.float32)[:, None, None]
    column = np.clip(np.array(PALETTE[name], np.float32) * light, 0, 255)
    return np.broadcast_to(np.rint(column).astype(np.uint8), (height, width, 3)).copy()


def _paint(frame: Frames, thing: Thing, centre: tuple[float, float], radius: float) -> None:
    height, width = frame.shape[:2]
    reach = radius * 1.5 + 2
    left, right = (int(np.clip(centre[0] + side * reach, 0, width)) for side in (-1, 1))
    top, bottom = (int(np.clip(centre[1] + side * reach, 0, height)) for side in (-1, 1))
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - np.float32(centre[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - np.float32(centre[1])
    cover = np.clip(0.5 - outside(thing.shape, x, y, radius), 0, 1)[..., None]
    under = frame[top:bottom, left:right].astype(np.float32)
    colour = np.array(PALETTE[thing.colour], np.float32)
    frame[top:bottom, left:right] = np.rint(under + (colour - under) * cover).astype(np.uint8)


def outside(shape: str, x: Floats, y: Floats, radius: float) -> Floats:
    """Distance of (x, y), in pixels from the centre, to the shape's edge; negative inside."""
    match shape:
        case "circle":
            return np.hypot(x, y) - np.float32(radius)
        case "ring":
            distance = np.hypot(x, y)
            return np.maximum(distance - np.float32(radius), np.float32(0.5 * radius) - distance)
        case "bar":
            return np.maximum(np.abs(x) - np.float32(1.25 * radius), np.abs(y) - np.float32(0.36 * radius))
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.9 * radius)
        case _:
            raise ValueError(f"no such shape: {shape}")
