"""The progress of one generation: its reports, and what is due after each step."""

import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from pipelines.core.errors import GenerationCancelled
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import VideoParams
from pipelines.runner.callbacks import Callbacks
from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.denoising import Capture

# the share of a generation's time in which each stage typically begins and ends
_SPANS = {
    Stage.LORAS: (0.0, 0.0),
    Stage.PROMPT: (0.0, 0.02),
    Stage.DENOISE: (0.02, 0.82),
    Stage.DECODE: (0.82, 1.0),
    # after the last group of frames, and before the end of the file, which is the decoding's last part
    Stage.SOUND: (0.99, 1.0),
}


class GenerationProgress:
    """One running generation: the state it started from, and its callbacks.

    `depends_on` is everything that decides its latents; a checkpoint is used only if that is equal.
    """

    def __init__(self, params: VideoParams, depends_on: dict[str, Any], callbacks: Callbacks) -> None:
        self.callbacks = callbacks
        self._steps = params.num_inference_steps
        self._has_sound = params.generate_audio
        self._depends_on = depends_on
        checkpoint = callbacks.checkpoint
        self.denoising_state: DenoisingState | None = None if checkpoint is None else checkpoint.load(depends_on)
        self.steps_before = params.first_step if self.denoising_state is None else self.denoising_state.step
        self._started = time.monotonic() - (0.0 if self.denoising_state is None else self.denoising_state.seconds)

    def report(self, stage: Stage, step: int, steps: int) -> None:
        """Report `step` of `steps` in a stage. The fraction never falls below that of the first one."""
        fraction = _fraction(stage, step, steps)
        if stage is Stage.DECODE and self._has_sound and step < steps:
            fraction = min(fraction, _fraction(Stage.SOUND, 0, 1))
        if self.steps_before:
            fraction = max(fraction, _fraction(Stage.DENOISE, self.steps_before, self._steps))
        self.callbacks.on_progress(Progress(stage, step, steps, fraction, self._seconds))

    def raise_if_cancelled(self) -> None:
        """Raise GenerationCancelled if the generation was cancelled."""
        if self.callbacks.cancelled():
            raise GenerationCancelled

    def after_step(self, step: int, capture: Capture, draw: Callable[[], Image.Image | None]) -> None:
        """Handle the end of a denoising step: cancellation, preview, report and checkpoint."""
        self.raise_if_cancelled()
        if self.callbacks.preview is not None:
            # before the report, which refers to it
            self.callbacks.preview.after_step(step, draw, is_last=step == self._steps)
        self.report(Stage.DENOISE, step, self._steps)
        if self.callbacks.checkpoint is not None:
            self.callbacks.checkpoint.after_step(
                self._depends_on,
                _fraction(Stage.DENOISE, step, self._steps),
                lambda: capture(self._seconds),
                is_last=step == self._steps,
            )

    def after_tensor(self, done: int, tensors: int) -> None:
        """Handle the merging of LoRAs into one more tensor: cancellation, and up to a hundred reports in all."""
        self.raise_if_cancelled()
        if done * 100 // tensors > (done - 1) * 100 // tensors:
            self.report(Stage.LORAS, done, tensors)

    def after_part(self, done: int, parts: int) -> None:
        """Handle the end of a part of the decoding: cancellation, and up to a hundred reports in all."""
        self.raise_if_cancelled()
        if done * 100 // parts > (done - 1) * 100 // parts:
            # one more part is the finishing of the file
            self.report(Stage.DECODE, done, parts + 1)

    def after_sound_step(self, done: int, steps: int) -> None:
        """Handle the end of a step of making the sound: cancellation and report."""
        self.raise_if_cancelled()
        # one more part is the decoding
        self.report(Stage.SOUND, done, steps + 1)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started


def _fraction(stage: Stage, step: int, steps: int) -> float:
    begin, end = _SPANS[stage]
    return begin + (end - begin) * step / steps
