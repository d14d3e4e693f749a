"""The noise levels (sigmas) of Wan's authors, before and after the shift.

Source: `FlowUniPCMultistepScheduler.set_timesteps` and `get_sampling_sigmas` in the code of Wan2.1 and Wan2.2
(`wan/utils/fm_solvers_unipc.py`, `wan/utils/fm_solvers.py`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.request import Sampler

Sigmas = NDArray[np.float64]
"""Noise levels from 1 (only noise) to 0 (none), one per step."""


def unshifted(sampler: Sampler, steps: int, train_steps: int) -> Sigmas:
    """Return the authors' noise levels (steps,) of a sampler, before the shift.

    `train_steps` is how many noise levels the model was trained on. The authors have no schedule for Euler: it takes
    UniPC's levels.
    """
    if sampler is Sampler.DPM:
        return np.linspace(1, 0, steps + 1)[:-1]
    # the authors keep the highest level in fp32, which decides how some timesteps are rounded
    highest = float(np.float32(1 - 1 / train_steps))
    return np.linspace(highest, 0, steps + 1)[:-1]


def shifted(sigmas: Any, shift: float) -> Any:
    """Return noise levels (array or tensor) moved towards noise by `shift`; 1 changes nothing."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)
