"""Makes the scheduler for a request's sampler and shift, from the configuration in a model's folder."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import NoiseSchedule
from pipelines.core.request import Sampler
from pipelines.stages.sampling.noise_schedule import shifted, unshifted
from pipelines.stages.sampling.schedulers import DPM, Euler, UniPC, WanDPM, WanEuler, WanUniPC

_CLASSES: dict[NoiseSchedule, dict[Sampler, Any]] = {
    NoiseSchedule.WAN: {Sampler.UNIPC: WanUniPC, Sampler.DPM: WanDPM, Sampler.EULER: WanEuler},
    NoiseSchedule.DIFFUSERS: {Sampler.UNIPC: UniPC, Sampler.DPM: DPM, Sampler.EULER: Euler},
}

_PUBLISHED_CLASSES = {
    "UniPCMultistepScheduler": Sampler.UNIPC,
    "DPMSolverMultistepScheduler": Sampler.DPM,
    "FlowMatchEulerDiscreteScheduler": Sampler.EULER,
}

_SHIFT_NAMES = {Sampler.UNIPC: "flow_shift", Sampler.DPM: "flow_shift", Sampler.EULER: "shift"}
"""What each class of diffusers calls its shift. A class accepts the other name, too, and ignores it."""

_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
"""Settings of UniPC and DPM-Solver++, which diffusers also uses for other kinds of models."""

_CHECKED_STEPS = (1, 4, 16, 50)

_MAX_TRAIN_STEPS = 100_000

_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Samplers:
    """The samplers of a model.

    `config` is the configuration of the scheduler in the model's folder, whose class has the sampler `published`.
    `default` is used where a request names none.
    """

    config: Mapping[str, Any]
    published: Sampler | None
    default: Sampler
    schedule: NoiseSchedule

    @classmethod
    def read(
        cls, folder: Path, sampler: Sampler | None, schedule: NoiseSchedule, shifts: Collection[float] = ()
    ) -> "Samplers":
        """Return the samplers for a folder in diffusers' layout, whose noise levels were checked.

        `sampler` replaces the folder's own as default. `shifts` are those that the model uses; without any it uses the
        folder's own. Raises WeightsNotFoundError if the folder's configuration cannot be read, and
        UnsupportedModelError if its sampler is unknown or its noise levels are not the expected ones.
        """
        path = folder / "scheduler" / "scheduler_config.json"
        try:
            config = UniPC.load_config(folder / "scheduler", local_files_only=True)
        except (OSError, ValueError) as error:
            raise WeightsNotFoundError(f"{path} cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise WeightsNotFoundError(f"{path} is not a JSON object.")
        published = _PUBLISHED_CLASSES.get(str(config.get("_class_name")))
        default = sampler or published
        if default is None:
            raise UnsupportedModelError(
                f"{path} is for a {config.get('_class_name')}, which is not supported. Set sampler to "
                f"{', '.join(Sampler)} in the model's file."
            )
        samplers = cls(config, published, default, schedule)
        try:
            samplers._check(shifts)
        except (ValueError, TypeError, KeyError) as error:
            raise UnsupportedModelError(f"{path} is not supported: {error}") from error
        return samplers

    def make(self, sampler: Sampler | None = None, shift: float | None = None) -> Any:
        """Return a new scheduler. Without `sampler` or `shift`, it has the model's own."""
        chosen = sampler or self.default
        settings: dict[str, Any] = {_SHIFT_NAMES[chosen]: self._own_shift if shift is None else shift}
        scheduler_class = _CLASSES[self.schedule][chosen]
        if chosen is self.published:
            return scheduler_class.from_config(dict(self.config), **settings)
        if chosen is not Sampler.EULER:
            settings |= _FLOW
        return scheduler_class(num_train_timesteps=self._train_steps, **settings)

    @property
    def _own_shift(self) -> float:
        if self.published is None:
            raise ValueError("its shift is unknown. Set flow_shift in the model's file.")
        name = _SHIFT_NAMES[self.published]
        shift = self.config.get(name, 1.0)
        if not isinstance(shift, int | float) or not 0 < shift < float("inf"):
            raise ValueError(f"{name} must be a positive number, not {shift!r}.")
        return float(shift)

    @property
    def _train_steps(self) -> int:
        steps = self.config.get("num_train_timesteps", 1000)
        if not isinstance(steps, int) or not 1 <= steps <= _MAX_TRAIN_STEPS:
            raise ValueError(f"num_train_timesteps must be an integer from 1 to {_MAX_TRAIN_STEPS}, not {steps!r}.")
        return steps

    def _check(self, shifts: Collection[float]) -> None:
        """Raise ValueError unless the noise levels of every sampler are the expected ones."""
        if self.config.get("use_dynamic_shifting"):
            raise ValueError("use_dynamic_shifting makes the shift depend on the video's size in a way of its own.")
        if self.published in (Sampler.UNIPC, Sampler.DPM):
            for name, needed in _FLOW.items():
                if self.config.get(name) != needed:
                    raise ValueError(f"{name} must be {needed!r}, not {self.config.get(name)!r}.")
        for sampler in Sampler:
            for shift in shifts or (self._own_shift,):
                for steps in _CHECKED_STEPS:
                    self._check_levels(sampler, float(shift), steps)

    def _check_levels(self, sampler: Sampler, shift: float, steps: int) -> None:
        scheduler = self.make(sampler, shift)
        scheduler.set_timesteps(steps)
        levels, timesteps = scheduler.sigmas.double(), scheduler.timesteps.double()
        about = f"With {sampler}, a shift of {shift:g} and {steps} steps, the noise levels"
        if len(levels) != steps + 1 or len(timesteps) != steps:
            raise ValueError(f"{about} are {len(levels)} instead of {steps + 1}.")
        if not 0 < levels[0] <= 1 or levels[-1] != 0 or not (levels.diff() < 0).all():
            raise ValueError(f"{about} do not fall from 1 to 0.")
        if self.schedule is NoiseSchedule.DIFFUSERS:
            return
        expected = torch.from_numpy(shifted(unshifted(sampler, steps, self._train_steps), shift))
        if (difference := float((levels[:-1] - expected).abs().max())) > _TOLERANCE:
            raise ValueError(f"{about} differ by up to {difference:.2g} from those of the model's authors.")
        if float((timesteps - expected * self._train_steps).abs().max()) > 1:
            raise ValueError(f"{about} do not belong to the timesteps.")
