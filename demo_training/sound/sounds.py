"""Draws the training sounds of the demo: water, wind, birds, crickets, beeps and waves, mono at 16 kHz.

All of a sound follows from its kind, its length and its random generator.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]
"""Mono samples in -1 … 1, (samples,)."""

Floats: TypeAlias = npt.NDArray[np.float64]

RATE: Final = 16_000
"""Samples a second."""

KINDS: Final = ("water", "wind", "birds", "crickets", "beeps", "waves")

_WINDOW: Final = 512
_HOP: Final = 128
_PITCH_STEP: Final = RATE / 256
"""Crickets and beeps have multiples of this frequency in Hz: one period of it is one latent."""

LEVELS: Final = {"water": 0.10, "wind": 0.10, "birds": 0.08, "crickets": 0.08, "beeps": 0.10, "waves": 0.10}
"""Root mean square of a sound of each kind, before a random gain of up to 3 dB up or down."""


def draw(kind: str, samples: int, rng: np.random.Generator) -> Samples:
    """Draw a sound (samples,) of `kind`, with a faint noise floor."""
    sound = _DRAWERS[kind](samples, rng)
    level = LEVELS[kind] * 10 ** (rng.uniform(-3, 3) / 20)
    sound = sound * (level / max(1e-9, float(np.sqrt(np.mean(sound**2)))))
    sound = sound + rng.normal(0, 3e-4, samples)
    return np.clip(sound, -1, 1).astype(np.float32)


def shaped_noise(
    samples: int, rng: np.random.Generator, gain: Callable[[Floats, Floats], Floats]
) -> npt.NDArray[np.float64]:
    """White noise whose spectrum changes: `gain` of frequencies in Hz (f, 1) and times in seconds (1, t) → (f, t)."""
    frames = samples // _HOP + 5
    window = np.hanning(_WINDOW + 1)[:-1]
    noise = rng.normal(size=(frames - 1) * _HOP + _WINDOW)
    frequencies = np.linspace(0, RATE / 2, _WINDOW // 2 + 1)[:, None]
    curve = gain(frequencies, (np.arange(frames) * _HOP / RATE)[None])
    result = np.zeros(len(noise))
    for index in range(frames):
        part = slice(index * _HOP, index * _HOP + _WINDOW)
        spectrum = np.fft.rfft(noise[part] * window)
        result[part] += np.fft.irfft(spectrum * curve[:, index], _WINDOW)
    return result[_WINDOW - _HOP : _WINDOW - _HOP + samples]


def slow_curve(times: Floats, rate: float, rng: np.random.Generator) -> Floats:
    """A smooth random curve about 0, deviation about 1: values at `times` in seconds, `rate` knots a second."""
    knots = rng.normal(size=int(np.ceil(float(times.max()) * rate)) + 3)
    place = times * rate + rng.random()
    index = place.astype(int)
    share = (1 - np.cos(np.pi * (place - index))) / 2
    curve: Floats = 1.2 * (knots[index] * (1 - share) + knots[index + 1] * share)
    return curve


def _wind(samples: int, rng: np.random.Generator) -> Floats:
    centre, width = rng.uniform(300, 600), rng.uniform(0.25, 0.45)

    def gain(frequencies: Floats, times: Floats) -> Floats:
        gust = slow_curve(times[0], rng.uniform(0.8, 1.6), rng)
        howl = centre * 2 ** (0.35 * gust)
        octaves = np.log2(np.maximum(frequencies, 20) / howl)
        resonance = np.exp(-0.5 * (octaves / width) ** 2)
        rumble = 0.25 / (1 + (frequencies / 250) ** 2)
        return (resonance + rumble) * 10 ** (5 * gust / 20)

    return shaped_noise(samples, rng, gain)


def _waves(samples: int, rng: np.random.Generator) -> Floats:
    period, start = rng.uniform(2.0, 3.2), rng.random()
    rise = rng.uniform(0.25, 0.4)
    brightness = rng.uniform(2500, 4500)

    def gain(frequencies: Floats, times: Floats) -> Floats:
        phase = (times / period + start) % 1
        swell = np.where(phase < rise, (phase / rise) ** 2, np.exp(-3.2 * (phase - rise) / (1 - rise)))
        cutoff = 350 + brightness * swell
        return (0.06 + swell) / (1 + (frequencies / cutoff) ** 2)

    return shaped_noise(samples, rng, gain)


def _water(samples: int, rng: np.random.Generator) -> Floats:
    low = rng.uniform(500, 700)
    high = low * rng.uniform(2.6, 3.4)

    def gain(frequencies: Floats, times: Floats) -> Floats:
        body = np.exp(-0.5 * (np.log2(np.maximum(frequencies, 20) / 2000) / 0.8) ** 2)
        return body * 10 ** (2 * slow_curve(times[0], 4.0, rng) / 20)

    hiss = shaped_noise(samples, rng, gain)
    result = 0.25 * hiss / max(1e-9, float(hiss.std()))
    length = int(0.12 * RATE)
    seconds = np.arange(length) / RATE
    for _ in range(rng.poisson(rng.uniform(35, 60) * samples / RATE) + 1):
        pitch = low * (high / low) ** rng.random()
        decay = rng.uniform(50, 110)
        rising = rng.uniform(1, 5)
        bubble = np.exp(-decay * seconds) * np.sin(2 * np.pi * pitch * seconds * (1 + rising * seconds))
        bubble *= np.minimum(1, seconds / 0.002) * rng.exponential() * 2.5
        begin = int(rng.integers(-length // 2, samples))
        _add(result, bubble, begin)
    return result


def _birds(samples: int, rng: np.random.Generator) -> Floats:
    result = np.zeros(samples)
    base, span = rng.uniform(2300, 3400), rng.uniform(600, 1500)
    length, notes, pause = rng.uniform(0.07, 0.14), int(rng.integers(2, 6)), rng.uniform(0.02, 0.06)
    shape = int(rng.integers(3))
    place = -rng.uniform(0, 0.4)
    while place * RATE < samples:
        for _ in range(notes):
            count = int(length * rng.uniform(0.85, 1.15) * RATE)
            share = np.arange(count) / count
            bend = (share, 1 - share, np.sin(np.pi * share))[shape]
            phase = 2 * np.pi * np.cumsum(base + span * bend) / RATE
            _add(result, np.sin(phase) * np.sin(np.pi * share) * rng.uniform(0.7, 1), int(place * RATE))
            place += count / RATE + pause
        place += rng.uniform(0.25, 0.6)
    return result


def _crickets(samples: int, rng: np.random.Generator) -> Floats:
    pitch = _PITCH_STEP * int(rng.integers(67, 84))
    pulses, gap = int(rng.integers(3, 6)), rng.uniform(0.030, 0.038)
    every = pulses * gap + rng.uniform(0.08, 0.22)
    count = int(gap * rng.uniform(0.55, 0.75) * RATE)
    share = np.arange(count) / count
    result = np.zeros(samples)
    place = -rng.uniform(0, every)
    while place * RATE < samples:
        for index in range(pulses):
            tone = np.sin(2 * np.pi * pitch * np.arange(count) / RATE + rng.uniform(0, 6.28))
            _add(result, tone * np.sin(np.pi * share) * (0.6 + 0.4 * index / pulses), int((place + index * gap) * RATE))
        place += every * rng.uniform(0.97, 1.03)
    return result


def _beeps(samples: int, rng: np.random.Generator) -> Floats:
    pitch = _PITCH_STEP * int(rng.integers(9, 22))
    length, pause = rng.uniform(0.12, 0.26), rng.uniform(0.12, 0.3)
    overtone = rng.uniform(0.05, 0.3)
    count = int(length * RATE)
    seconds = np.arange(count) / RATE
    edge = np.clip(np.minimum(seconds, seconds[::-1]) / 0.01, 0, 1)
    beep = (np.sin(2 * np.pi * pitch * seconds) + overtone * np.sin(4 * np.pi * pitch * seconds)) * edge
    result = np.zeros(samples)
    place = -rng.uniform(0, length + pause)
    while place * RATE < samples:
        _add(result, beep, int(place * RATE))
        place += length + pause
    return result


def _add(result: Floats, part: Floats, begin: int) -> None:
    """Add `part` to `result` from sample `begin` on, without what lies outside."""
    first, last = max(0, begin), min(len(result), begin + len(part))
    if first < last:
        result[first:last] += part[first - begin : last - begin]


_DRAWERS: Final[dict[str, Callable[[int, np.random.Generator], Floats]]] = {
    "water": _water,
    "wind": _wind,
    "birds": _birds,
    "crickets": _crickets,
    "beeps": _beeps,
    "waves": _waves,
}
