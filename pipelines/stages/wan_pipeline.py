"""diffusers' pipeline, able to begin in the middle of its denoising loop."""

from typing import Any

from diffusers import WanPipeline

from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.guidance import Passes


class ResumableWanPipeline(WanPipeline):
    """WanPipeline that skips the steps a checkpoint holds, as diffusers itself skips those of an interrupted call."""

    _half_done: tuple[DenoisingState, Passes] | None = None
    _steps_seen = 0

    def begin_after(self, denoising_state: DenoisingState, passes: Passes) -> None:
        """Have the next call go on from a state; it must be given the same arguments, and `half_done.latents`."""
        self._half_done, self._steps_seen = (denoising_state, passes), 0

    def forget(self) -> None:
        """Have the next call begin at its beginning."""
        self._half_done = None

    @property
    def interrupt(self) -> Any:
        """Whether the step that begins is skipped; the loop asks once a step, after the timesteps were set."""
        if self._half_done is None:
            return self._interrupt
        denoising_state, passes = self._half_done
        if self._steps_seen < denoising_state.step:
            self._steps_seen += 1
            return True
        denoising_state.restore(self.scheduler, passes, self._execution_device)
        self._half_done = None
        return self._interrupt
