"""A sound in a file, as ffmpeg reads it: WAV with 32-bit floats, so that nothing is rounded before it is encoded."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""A sound, (channels, samples), in -1 … 1."""

_FLOATS = 3


def write_wave(path: Path, samples: Samples, rate: int) -> None:
    """Write a sound, (channels, samples) at `rate` samples a second. Raises OSError."""
    channels = len(samples)
    data = samples.T.astype("<f4").tobytes()
    frame = channels * 4
    form = struct.pack("<HHIIHH", _FLOATS, channels, rate, rate * frame, frame, 32)
    chunks = (
        b"WAVE" + _chunk(b"fmt ", form) + _chunk(b"fact", struct.pack("<I", samples.shape[1])) + _chunk(b"data", data)
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content
