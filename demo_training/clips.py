"""The training data of the demo model: scenes drawn at random, and the combinations that are held out.

Every scene follows from a seed. One combination of shape, colour, background and motion in five is held out: training
never uses it, evaluation uses nothing else.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from demo_training.landscapes import render_landscape
from demo_training.shapes import render_shapes
from pipelines.core.progress import Frames
from pipelines.demo.scenes import (
    ANIMALS,
    BACKGROUNDS,
    COLOURS,
    HOURS,
    LANDS,
    MOTIONS,
    SHAPES,
    SIZES,
    Landscape,
    Scene,
    ShapeScene,
    Thing,
)

SHAPE_SHARE = 0.70
PAIR_SHARE = 0.08
HELD_OUT_ONE_IN = 5


def is_held_out(shape: str, colour: str, background: str, motion: str) -> bool:
    """Whether training never uses this combination."""
    return crc32(f"{shape} {colour} {background} {motion}".encode()) % HELD_OUT_ONE_IN == 0


def combinations(
    *,
    held_out: bool,
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = COLOURS,
    backgrounds: Sequence[str] = BACKGROUNDS,
) -> list[tuple[str, str, str, str]]:
    """All combinations (shape, colour, background, motion) for training, or all that are held out."""
    return [
        (shape, colour, background, motion)
        for shape in shapes
        for colour in colours
        for background in backgrounds
        for motion in MOTIONS
        if colour != background and is_held_out(shape, colour, background, motion) == held_out
    ]


_SEEN = combinations(held_out=False)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A scene for training."""
    family = rng.random()
    if family < SHAPE_SHARE:
        return single_shape(_SEEN[rng.integers(len(_SEEN))], rng)
    if family < SHAPE_SHARE + PAIR_SHARE:
        return _pair(rng)
    return _landscape(rng)


def single_shape(combination: tuple[str, str, str, str], rng: np.random.Generator) -> ShapeScene:
    """A scene of one object with the given shape, colour, background and motion; size and jitter are random."""
    shape, colour, background, motion = combination
    size = "medium" if motion == "growing" else str(rng.choice(list(SIZES), p=[0.08, 0.8, 0.12]))
    radius = SIZES[size] * (1 + 0.03 * rng.uniform(-1, 1))
    return ShapeScene((Thing(shape, colour, radius),), background, motion, _jitter(rng))


def sample_from_anywhere(rng: np.random.Generator) -> ShapeScene:
    """A scene for training of one object that starts anywhere and has any size, as in an image that somebody drew.

    A caption does not say this much: such a clip is learned with its first frame given.
    """
    shape, colour, background, motion = _SEEN[rng.integers(len(_SEEN))]
    x, y = rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.65)
    radius = rng.uniform(0.13, 0.34)
    match motion:
        case "left" | "right":
            x = rng.uniform(0.15, 0.6)
            x = x if motion == "right" else 1 - x
        case "up" | "down":
            y = rng.uniform(0.2, 0.58)
            y = y if motion == "down" else 1 - y
        case "growing":
            radius = rng.uniform(0.1, 0.25)
    thing = Thing(shape, colour, float(radius))
    return ShapeScene((thing,), background, motion, (0.0, 0.0, 0.0), (float(x), float(y)))


def _pair(rng: np.random.Generator) -> ShapeScene:
    colours = rng.permutation(COLOURS)[:2]
    background = str(rng.choice([name for name in BACKGROUNDS if name not in colours]))
    left, right = (
        Thing(str(rng.choice(SHAPES)), str(colour), SIZES["medium"] * (1 + 0.03 * rng.uniform(-1, 1)))
        for colour in colours
    )
    return ShapeScene((left, right), background, None, _jitter(rng))


def _landscape(rng: np.random.Generator) -> Landscape:
    animal = str(rng.choice(ANIMALS, p=[0.4, 0.2, 0.2, 0.2])) if rng.random() < 0.8 else None
    return Landscape(
        hour=str(rng.choice(HOURS, p=[0.5, 0.28, 0.22])),
        land=str(rng.choice(LANDS, p=[0.6, 0.4])),
        mountains=bool(rng.random() < 0.65),
        animal=animal,
        jitter=_jitter(rng),
    )


def _jitter(rng: np.random.Generator) -> tuple[float, float, float]:
    across, upright, phase = rng.uniform(-1, 1, 3)
    return float(across), float(upright), float(phase)


def render(scene: Scene, width: int, height: int, num_frames: int) -> Frames:
    """Draw any scene: RGB frames (num_frames, height, width, 3), one byte a channel."""
    if isinstance(scene, Landscape):
        return render_landscape(scene, width, height, num_frames)
    return render_shapes(scene, width, height, num_frames)
