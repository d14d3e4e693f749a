"""diffusers' Wan pipeline, able to continue in the middle of its denoising loop."""

from typing import Any

from diffusers import WanPipeline

from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.guidance import Guidance


class ResumableWanPipeline(WanPipeline):
    """WanPipeline that skips the steps a checkpoint holds, in the way diffusers skips those of an interrupted call."""

    _resume_from: tuple[DenoisingState, Guidance] | None = None
    _steps_seen = 0

    def resume_from(self, state: DenoisingState, guidance: Guidance) -> None:
        """Let the next call continue from `state`. It must get the same arguments, and `state.latents`."""
        self._resume_from, self._steps_seen = (state, guidance), 0

    def reset(self) -> None:
        """Let the next call start at the first step."""
        self._resume_from = None

    @property
    def interrupt(self) -> Any:
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
