"""diffusers' schedulers with the noise levels of Wan's authors.

A scheduler of diffusers is both a solver and a noise schedule. Each class here starts at its first noise level.
diffusers looks for that level by its timestep, and takes the second level if rounding made their timesteps equal.
"""

from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from pipelines.core.request import Sampler
from pipelines.stages.sampling.noise_schedule import Sigmas, shifted, unshifted


class _FromFirstLevel:
    """Starts at the first noise level, whatever its timestep."""

    config: Any

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Set the noise levels and timesteps of so many steps."""
        levels = self._levels(num_inference_steps)
        schedule = {} if levels is None else {"sigmas": levels}
        super().set_timesteps(num_inference_steps, device=device, **schedule)  # type: ignore[misc]
        self.set_begin_index(0)  # type: ignore[attr-defined]

    def _levels(self, _steps: int) -> Sigmas | None:
        """Return the noise levels before the shift; None for diffusers' own."""
        return None


class UniPC(_FromFirstLevel, UniPCMultistepScheduler):
    """UniPC with diffusers' noise levels."""


class DPM(_FromFirstLevel, DPMSolverMultistepScheduler):
    """DPM-Solver++ with diffusers' noise levels."""


class Euler(_FromFirstLevel, FlowMatchEulerDiscreteScheduler):
    """Euler's method with diffusers' noise levels."""


class WanUniPC(UniPC):
    """UniPC with the authors' noise levels."""

    def _levels(self, steps: int) -> Sigmas:
        return unshifted(Sampler.UNIPC, steps, self.config.num_train_timesteps)


class WanEuler(Euler):
    """Euler's method with the authors' noise levels for UniPC: they have none for Euler."""

    def _levels(self, steps: int) -> Sigmas:
        return unshifted(Sampler.EULER, steps, self.config.num_train_timesteps)


class WanDPM(DPM):
    """DPM-Solver++ with the authors' noise levels. diffusers' class does not accept any."""

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Set the noise levels and timesteps of so many steps."""
        super().set_timesteps(num_inference_steps, device)
        train_steps = self.config.num_train_timesteps
        levels = shifted(unshifted(Sampler.DPM, num_inference_steps, train_steps), self.config.flow_shift)
        self.sigmas = torch.from_numpy(np.append(levels, 0.0).astype(np.float32))
        self.timesteps = torch.from_numpy(levels * train_steps).to(device=device, dtype=torch.int64)
