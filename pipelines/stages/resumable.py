"""diffusers' pipelines, able to continue in the middle of their denoising loop."""

from functools import cache
from typing import Any

from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.guidance import Guidance


class _Resumable:
    """Skips the steps that a checkpoint holds, in the way diffusers skips those of an interrupted call."""

    _interrupt: bool
    _execution_device: Any
    scheduler: Any
    _resume_from: tuple[DenoisingState, Guidance] | None = None
    _steps_seen = 0

    def resume_from(self, state: DenoisingState, guidance: Guidance) -> None:
        """Let the next call continue from `state`. It must get the same arguments, and `state.latents`."""
        self._resume_from, self._steps_seen = (state, guidance), 0

    def reset(self) -> None:
        """Let the next call start at the first step."""
        self._resume_from = None

    @property
    def interrupt(self) -> bool:
        """Whether to skip the step that begins. The loop reads it once a step, after it has set the timesteps."""
        if self._resume_from is None:
            return self._interrupt
        state, guidance = self._resume_from
        if self._steps_seen < state.step:
            self._steps_seen += 1
            return True
        state.restore(self.scheduler, guidance, self._execution_device)
        self._resume_from = None
        return self._interrupt


@cache
def resumable(pipeline_class: Any) -> Any:
    """Return a subclass of a diffusers pipeline that has `resume_from` and `reset`."""
    return type(f"Resumable{pipeline_class.__name__}", (_Resumable, pipeline_class), {})
