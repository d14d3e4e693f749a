"""What the autoencoder's latents mean: the principal components of compressed mel spectrograms, two frames in a latent.

So the decoder and the transformer can be trained at the same time, before there is an encoder.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from demo_training.sound.sounds import KINDS, RATE, Samples, draw
from demo_training.sound.spectrogram import mel_filters
from pipelines.core.files import atomic_path

Floats = npt.NDArray[np.float32]

SEED = 20261200
RATIO = 256
"""Samples in one latent."""

SIGNAL = 24
"""Components."""

CLIPS = 20
"""Drawn sounds of each kind that the components are fitted to."""

_BANDS = 64
_WINDOW = 512
_HOP = RATIO // 2
_POWER = 0.2
"""Exponent that compresses power: a compromise between loudness as it is heard and silence as zero."""

_LARGEST = 1.5
"""Deviation of the first component. That of the others falls with the fourth root of their variance."""


def features(sound: Samples) -> Floats:
    """The compressed mel spectrogram of a sound (RATIO * n samples,) as (n, 2 * bands)."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, _WINDOW // 2), _WINDOW)[_HOP // 2 :: _HOP]
    spectrum = np.fft.rfft(frames[: len(sound) // _HOP] * np.hanning(_WINDOW), axis=1)
    power = (np.abs(spectrum) ** 2 / _WINDOW) @ mel_filters(_BANDS, _WINDOW).T
    compressed: Floats = (power**_POWER).reshape(-1, 2 * _BANDS).astype(np.float32)
    return compressed


class Basis:
    """The mean of the features (2 * bands,) and the matrix (2 * bands, SIGNAL) to their components."""

    def __init__(self, mean: Floats, matrix: Floats) -> None:
        self.mean, self.matrix = mean, matrix

    def latents(self, sound: Samples) -> Floats:
        """The components (SIGNAL, n) of a sound (RATIO * n samples,)."""
        return np.ascontiguousarray(((features(sound) - self.mean) @ self.matrix).T)


def fit_basis(clips: int) -> Basis:
    """The basis of `clips` drawn sounds of each kind."""
    seen = np.concatenate(
        [
            features(draw(kind, 4 * RATE, np.random.default_rng((SEED, number, index))))
            for number, kind in enumerate(KINDS)
            for index in range(clips)
        ]
    )
    mean = seen.mean(0)
    variances, vectors = np.linalg.eigh(np.cov((seen - mean).T))
    variances, vectors = variances[::-1][:SIGNAL], vectors[:, ::-1][:, :SIGNAL]
    deviations = _LARGEST * (variances / variances[0]) ** 0.25
    return Basis(mean, (vectors / np.sqrt(variances) * deviations).astype(np.float32))


def load_basis(state: Path) -> Basis:
    """The basis in a training's folder, fitted and stored if it is missing."""
    file = state / "basis.pt"
    if not file.is_file():
        state.mkdir(parents=True, exist_ok=True)
        basis = fit_basis(CLIPS)
        with atomic_path(file, durable=False) as part:
            torch.save({"mean": torch.from_numpy(basis.mean), "matrix": torch.from_numpy(basis.matrix)}, part)
    stored = torch.load(file, weights_only=True)
    return Basis(stored["mean"].numpy(), stored["matrix"].numpy())
