"""Spectrograms of sounds as features and as pictures, in numpy and Pillow."""

from functools import cache
from math import log10
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from demo_training.sound.sounds import RATE, Samples

BANDS = 64
_WINDOW = 1024
_HOP = 256


@cache
def mel_filters(bands: int = BANDS, window: int = _WINDOW) -> npt.NDArray[np.float32]:
    """Triangular filters (bands, window // 2 + 1), evenly spaced in mel from 50 Hz to half the sampling rate."""
    lowest, highest = (2595 * log10(1 + hertz / 700) for hertz in (50, RATE / 2))
    edges = np.linspace(lowest, highest, bands + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    frequencies = np.fft.rfftfreq(window, 1 / RATE)
    up = (frequencies - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    down = (hertz[2:, None] - frequencies) / (hertz[2:] - hertz[1:-1])[:, None]
    return np.maximum(0, np.minimum(up, down)).astype(np.float32)


def power(sound: Samples, window: int = _WINDOW, hop: int = _HOP) -> npt.NDArray[np.float32]:
    """The power spectrogram (window // 2 + 1, frames) of a sound (samples,)."""
    padded = np.pad(sound, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    spectrum = np.fft.rfft(frames * np.hanning(window), axis=1)
    return (np.abs(spectrum) ** 2 / window).T.astype(np.float32)


def log_mel(sound: Samples) -> npt.NDArray[np.float32]:
    """Log10 of the mel spectrogram (BANDS, frames) of a sound (samples,)."""
    return np.log10(mel_filters() @ power(sound) + 1e-7)


def picture(sounds: list[tuple[str, Samples]], columns: int, file: Path) -> None:
    """Write the spectrograms of named sounds as a grid: time to the right, 0 … 8 kHz upwards, 70 dB of brightness."""
    width = max(len(sound) for _, sound in sounds) // 160
    height, title = 129, 12
    rows = (len(sounds) + columns - 1) // columns
    sheet = Image.new("L", (columns * (width + 4), rows * (height + title + 4)), 40)
    pen = ImageDraw.Draw(sheet)
    for index, (name, sound) in enumerate(sounds):
        left, top = index % columns * (width + 4), index // columns * (height + title + 4)
        decibels = 10 * np.log10(power(sound, 512, 160)[:257] + 1e-9)
        decibels = np.maximum(decibels[:-1:2], decibels[1::2])[::-1]
        grey = np.clip((decibels + 65) / 70 * 255, 0, 255).astype(np.uint8)
        sheet.paste(Image.fromarray(grey[:, :width]), (left, top + title))
        pen.text((left + 2, top), name, fill=255)
    sheet.save(file)
