"""The loudness of sounds that a model made."""

import numpy as np
import pytest

from pipelines.core.errors import SoundError
from pipelines.stages.audio.levelling import LOUDNESS_DB, MOST_DB, PEAK_DB, levelled
from pipelines.stages.writing.wave_file import Samples


def noise(power_db: float) -> Samples:
    samples = np.random.default_rng(0).standard_normal((2, 48_000)).astype(np.float32)
    return samples * np.float32(10 ** (power_db / 20))


def power(samples: Samples) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(samples)))))


@pytest.mark.parametrize("given", [-45.0, -30.0, -23.0, -10.0, 3.0])
def test_sounds_become_equally_loud(given: float) -> None:
    made = levelled(noise(given))

    assert power(made) == pytest.approx(LOUDNESS_DB, abs=0.1)
    assert made.dtype == np.float32


def test_a_soft_sound_becomes_louder_by_a_limit_only() -> None:
    assert power(levelled(noise(-60.0))) == pytest.approx(-60 + MOST_DB, abs=0.1)


def test_a_sound_with_peaks_is_not_cut() -> None:
    clicks = np.zeros((1, 48_000), np.float32)
    clicks[0, ::4000] = 0.2

    made = levelled(clicks)

    assert 20 * np.log10(made.max()) == pytest.approx(PEAK_DB, abs=0.01)
    assert np.allclose(made / made.max(), clicks / clicks.max())


@pytest.mark.parametrize("silence", [np.zeros((2, 480), np.float32), noise(-75.0), np.zeros((2, 0), np.float32)])
def test_silence_stays_silence(silence: Samples) -> None:
    assert np.array_equal(levelled(silence), silence)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(wrong: float) -> None:
    sound = noise(-20.0)
    sound[1, 7] = wrong

    with pytest.raises(SoundError):
        levelled(sound)
