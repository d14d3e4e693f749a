"""What a clip of the demo model can show. `demo_training` draws it."""

from dataclasses import dataclass
from typing import Final, TypeAlias

SHAPES: Final = ("circle", "ring", "bar", "square")


MOTIONS: Final = ("left", "right", "up", "down", "growing")


COLOURS: Final = ("red", "yellow", "green", "blue", "purple", "white", "black", "grey")


BACKGROUNDS: Final = COLOURS


SIZES: Final = {"small": 0.20, "medium": 0.27, "large": 0.33}
"""Radius of an object, as a fraction of the frame's shorter side."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: shape, colour, and radius as a fraction of the frame's shorter side."""

    shape: str
    colour: str
    radius: float


@dataclass(frozen=True, slots=True)
class ShapeScene:
    """One object that moves, or two that float side by side (`motion` is then None)."""

    things: tuple[Thing, ...]
    background: str
    motion: str | None
    jitter: tuple[float, float, float]
    """Shift along x, along y, and of the motion's phase, each in -1 … 1."""
    start: tuple[float, float] | None = None
    """The centre in the first frame, as fractions of width and height; None: where such a motion usually begins."""


HOURS: Final = ("day", "sunset", "night")


LANDS: Final = ("lake", "meadow")


ANIMALS: Final = ("ox", "horse", "sheep", "duck")


@dataclass(frozen=True, slots=True)
class Landscape:
    """A landscape; `jitter` (each in -1 … 1) shifts the peaks, the sun and the animal slightly."""

    hour: str
    land: str
    mountains: bool
    animal: str | None
    jitter: tuple[float, float, float]


Scene: TypeAlias = ShapeScene | Landscape
