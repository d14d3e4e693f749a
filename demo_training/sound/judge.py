"""Tells kinds of sound apart by their spectra, in numpy. It knows drawn sounds only and does not use the models.

Beside the kinds it knows what they must not be taken for: silence, hiss, hum, buzz and clicks are "other".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_training.sound.sounds import KINDS, RATE, Samples, draw
from demo_training.sound.spectrogram import BANDS, log_mel, power

Floats = npt.NDArray[np.float64]

SEED = 20261205
OTHER: Final = "other"
TRAINED_SECONDS: Final = (2.0, 5.0)
"""The shortest and the longest sound it is fitted to."""

_JOINT: Final = 4
"""Neighbouring mel bands that make one feature."""

_FRAME_RATE: Final = RATE / 256
_RHYTHMS: Final = (0.25, 0.8, 1.8, 3.5, 7.0, 14.0, 30.0)
"""Edges of the bands of changes of loudness, in Hz."""

_SHRINKAGE: Final = 0.05


def features(sound: Samples) -> Floats:
    """What a sound (samples,) is judged by, whatever its loudness: spectrum, changes, rhythm, purity of tone."""
    mel = log_mel(sound).astype(np.float64)
    energy = (10**mel).reshape(BANDS // _JOINT, _JOINT, -1).sum(1)
    total = energy.sum(0)
    floor = 1e-4 * float(total.mean()) + 1e-6
    spectrum = np.log10(energy.mean(1) + floor) - np.log10(float(total.mean()) + floor)
    changes = np.log10(energy + floor).std(1)
    loudness = np.log10(total + floor)
    rhythm = np.abs(np.fft.rfft((loudness - loudness.mean()) * np.hanning(len(loudness)))) ** 2 / len(loudness)
    frequencies = np.fft.rfftfreq(len(loudness), 1 / _FRAME_RATE)
    bands = [rhythm[(frequencies >= low) & (frequencies < high)].sum() for low, high in pairwise(_RHYTHMS)]
    bins = power(sound).astype(np.float64)
    loud = bins[:, bins.sum(0) >= np.median(bins.sum(0))]
    purity = np.sort(loud, axis=0)[-4:].sum(0) / (loud.sum(0) + 1e-9)
    level = np.log10(float(total.mean()) + 1e-6)
    return np.concatenate(
        [
            spectrum,
            changes,
            np.log10(np.array(bands) + 1e-3),
            [float(purity.mean()), float(purity.std()), min(level, -1)],
        ]
    )


@dataclass(frozen=True, slots=True)
class Classifier:
    """A linear discriminant analysis: classes with their own means and one covariance of the features."""

    names: tuple[str, ...]
    means: Floats
    scale: Floats
    inverse: Floats

    def kind(self, sound: Samples) -> str:
        """The kind of a sound (samples,), or OTHER."""
        apart = self.means - features(sound) / self.scale
        name = self.names[int(np.argmin(np.einsum("kf,fg,kg->k", apart, self.inverse, apart)))]
        return name if name in KINDS else OTHER


@cache
def fitted(count: int = 60) -> Classifier:
    """The classifier, fitted to `count` drawn sounds of each class."""
    names = (*KINDS, *_OTHERS)
    seen = np.array([[features(example(name, index)) for index in range(count)] for name in names])
    scale = seen.std(axis=(0, 1)) + 1e-6
    means = (seen / scale).mean(1)
    apart = (seen / scale - means[:, None]).reshape(-1, seen.shape[2])
    covariance = apart.T @ apart / len(apart)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.eye(len(covariance))
    return Classifier(names, means, scale, np.linalg.inv(covariance))


def example(name: str, index: int, seed: int = SEED) -> Samples:
    """A drawn sound of a class; it follows from its index and the seed."""
    rng = np.random.default_rng((seed, (*KINDS, *_OTHERS).index(name), index))
    samples = int(rng.uniform(*TRAINED_SECONDS) * RATE)
    if name in KINDS:
        return draw(name, samples, rng)
    return (_OTHERS[name](samples, rng) * rng.uniform(0.03, 0.15) + rng.normal(0, 3e-4, samples)).astype(np.float32)


def _hum(samples: int, rng: np.random.Generator) -> Floats:
    tone: Floats = np.sin(2 * np.pi * rng.uniform(100, 6000) * np.arange(samples) / RATE)
    return tone


def _buzz(samples: int, rng: np.random.Generator) -> Floats:
    saw: Floats = np.mod(np.linspace(0, rng.uniform(50, 150) * samples / RATE, samples), 1)
    return (2 * saw - 1) ** int(rng.choice([1, 3, 9]))


def _clicks(samples: int, rng: np.random.Generator) -> Floats:
    return np.where(rng.random(samples) < rng.uniform(3, 40) / RATE, 8.0, 0.0)


_OTHERS: Final[dict[str, Callable[[int, np.random.Generator], Floats]]] = {
    "silence": lambda samples, rng: np.zeros(samples),
    "hiss": lambda samples, rng: rng.normal(size=samples),
    "hum": _hum,
    "buzz": _buzz,
    "clicks": _clicks,
}
