"""Recognises what a clip of one object shows, by image analysis in numpy: background, colour, shape, motion.

It does not use the models. `benchmarks.quality.demo_quality` measures its accuracy on true renders.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_training.shapes import PALETTE, outside
from pipelines.core.progress import Frames
from pipelines.demo.scenes import BACKGROUNDS, COLOURS, SHAPES

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ANGLES: Final = 90
_CONTRAST: Final = 70.0
"""The least RGB distance (0 … 442) from the background of a pixel that belongs to the object."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was recognised; None for what was not."""

    background: str
    colour: str | None
    shape: str | None
    motion: str | None


def judge(frames: Frames) -> Verdict:
    """Recognise what RGB frames (n, height, width, 3) show."""
    border = _border(frames)
    background = _nearest(np.median(border.reshape(-1, 3), axis=0), BACKGROUNDS)
    masks = [_thing(frame, rows) for frame, rows in zip(frames, border, strict=True)]
    areas = np.array([mask.sum() for mask in masks], float)
    if areas.max() < 0.004 * masks[0].size:
        return Verdict(background, None, None, None)
    largest = np.flatnonzero(areas > 0.6 * areas.max())
    pixels = np.concatenate([frames[index][masks[index]] for index in largest])
    colour = _nearest(np.median(pixels, axis=0), tuple(name for name in COLOURS if name != background))
    shape = _shape([masks[index] for index in largest])
    return Verdict(background, colour, shape, _motion(masks, areas))


def _border(frames: Frames) -> npt.NDArray[np.uint8]:
    """The median colour of each row's ends, (n, height, 3): an object rarely reaches both sides."""
    edge = max(2, frames.shape[2] // 40)
    return np.median(np.concatenate([frames[:, :, :edge], frames[:, :, -edge:]], axis=2), axis=2).astype(np.uint8)


def _nearest(colour: Floats, names: tuple[str, ...]) -> str:
    return min(names, key=lambda name: float(np.linalg.norm(colour - np.array(PALETTE[name]))))


def _thing(frame: Frames, rows: npt.NDArray[np.uint8]) -> Mask:
    away = np.linalg.norm(frame.astype(np.float32) - np.median(rows, axis=0), axis=-1)
    return away > _CONTRAST


def _outline(mask: Mask) -> Floats:
    """The object's radius in each direction from its centre, relative to the radius of a disc of its area."""
    y, x = np.nonzero(mask)
    # outliers would move the centre: keep only pixels near the median
    near = (np.abs(x - np.median(x)) < 1.6 * np.sqrt(len(x))) & (np.abs(y - np.median(y)) < 1.6 * np.sqrt(len(y)))
    x, y = x[near] - x[near].mean(), y[near] - y[near].mean()
    bins = ((np.arctan2(y, x) + np.pi) / (2 * np.pi) * _ANGLES).astype(int) % _ANGLES
    reach = np.zeros(_ANGLES)
    np.maximum.at(reach, bins, np.hypot(x, y))
    return reach / np.sqrt(max(len(x), 1) / np.pi)


def _signature(mask: Mask) -> Floats:
    """Rotation-invariant features: harmonics 0, 2 … 8 of the outline, and how hollow the middle is."""
    harmonics = np.abs(np.fft.rfft(_outline(mask)))[[0, 2, 3, 4, 5, 6, 8]] / _ANGLES
    return np.append(harmonics, _hollow(mask))


def _hollow(mask: Mask) -> float:
    """Share of an object's middle that shows the background."""
    y, x = np.nonzero(mask)
    middle = np.hypot(*np.ogrid[-np.median(y) : len(mask) - np.median(y), -np.median(x) : mask.shape[1] - np.median(x)])
    inside = middle < 0.25 * np.sqrt(len(x) / np.pi)
    return float(1 - mask[inside].mean()) if inside.any() else 0.0


@cache
def _templates() -> dict[str, tuple[Floats, ...]]:
    grid = np.arange(-80, 81, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    turned = {}
    for shape in SHAPES:
        signatures = []
        for angle in np.linspace(0, 1.2, 5):
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            signatures.append(_signature(outside(shape, x * cos + y * sin, y * cos - x * sin, 48.0) < 0))
        turned[shape] = tuple(signatures)
    return turned


def _shape(masks: list[Mask]) -> str:
    distance = dict.fromkeys(SHAPES, 0.0)
    for mask in masks:
        signature = _signature(mask)
        for shape, known in _templates().items():
            distance[shape] += min(float(np.linalg.norm(signature - template)) for template in known)
    return min(distance, key=lambda shape: distance[shape])


def _motion(masks: list[Mask], areas: Floats) -> str | None:
    height, width = masks[0].shape
    short = min(height, width)
    seen = np.flatnonzero(areas > 0.05 * areas.max())
    centres = np.array([[side.mean() for side in np.nonzero(masks[index])] for index in seen]) / short
    start, end = centres[:3].mean(0), centres[-3:].mean(0)
    down, right = end - start
    reach = np.ptp(centres[:, 0])
    if areas[seen[-3:]].mean() > 1.8 * areas[seen[:3]].mean():
        return "growing"
    if reach > 0.2 and abs(down) < 0.5 * reach and abs(right) < reach:
        # it moved there and back
        return None
    if max(abs(down), abs(right)) > 0.2:
        if abs(right) > abs(down):
            return "right" if right > 0 else "left"
        return "down" if down > 0 else "up"
    return None
