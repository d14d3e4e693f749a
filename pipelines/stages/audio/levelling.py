"""Makes sounds about equally loud: models make one prompt's sound much softer than another's.

By the mean power and the peak, as ffmpeg's filter for loudness cannot measure sounds shorter than a third of a second.
"""

import numpy as np

from pipelines.core.errors import SoundError
from pipelines.stages.writing.wave_file import Samples

LOUDNESS_DB = -23.0
"""The power that is aimed at, in dB of a full square wave."""

PEAK_DB = -1.5
"""No sample is louder: what encodes the sound overshoots a little."""

MOST_DB = 24.0
"""A soft sound is made louder by at most so much: the noise of near silence should stay soft."""

SILENCE_DB = -70.0
"""What is softer is silence, and stays as it is."""


FACTS = (LOUDNESS_DB, PEAK_DB, MOST_DB, SILENCE_DB)
"""What the loudness of a sound depends on."""


def levelled(samples: Samples) -> Samples:
    """Return a sound at the usual loudness. Raises SoundError for one with numbers that are not finite."""
    if not np.isfinite(samples).all():
        raise SoundError("The sound has numbers that are not finite.")
    power = _db(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))) if samples.size else SILENCE_DB
    if power <= SILENCE_DB:
        return samples
    peak = _db(float(np.abs(samples).max()))
    gain = min(LOUDNESS_DB - power, MOST_DB, PEAK_DB - peak)
    return (samples * np.float32(10 ** (gain / 20))).astype(np.float32)


def _db(value: float) -> float:
    return 20 * float(np.log10(max(value, 1e-10)))
