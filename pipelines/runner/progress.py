"""How far one generation is, and what is due after each of its steps."""

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

# where each stage begins and ends in a generation's progress: a typical split of its time
_SPANS = {Stage.PROMPT: (0.0, 0.02), Stage.DENOISE: (0.02, 0.82), Stage.DECODE: (0.82, 1.0)}


class GenerationProgress:
    """One generation on its way: what it began with, and who is told and asked at every step."""

    def __init__(self, params: VideoParams, depends_on: dict[str, Any], hooks: Callbacks) -> None:
        self.hooks = hooks
        self._steps = params.num_inference_steps
        self._depends_on = depends_on
        checkpoint = hooks.checkpoint
        self.denoising_state: DenoisingState | None = None if checkpoint is None else checkpoint.load(depends_on)
        self.steps_before = 0 if self.denoising_state is None else self.denoising_state.step
        self._begun = time.monotonic() - (0.0 if self.denoising_state is None else self.denoising_state.seconds)

    def report(self, stage: Stage, step: int, steps: int) -> None:
        """Tell how far it is; never less than it was when it was taken up again."""
        fraction = fraction_of(stage, step, steps)
        if self.steps_before:
            fraction = max(fraction, fraction_of(Stage.DENOISE, self.steps_before, self._steps))
        self.hooks.on_progress(Progress(stage, step, steps, fraction, self._seconds))

    def check(self) -> None:
        """Raise GenerationCancelled if it was cancelled."""
        if self.hooks.cancelled():
            raise GenerationCancelled

    def after_step(self, step: int, capture: Capture, draw: Callable[[], Image.Image | None]) -> None:
        """What is due after a denoising step: an end, a preview, a report, a checkpoint."""
        self.check()
        if self.hooks.preview is not None:
            # before the report, which tells of it
            self.hooks.preview.after_step(step, draw, is_last=step == self._steps)
        self.report(Stage.DENOISE, step, self._steps)
        if self.hooks.checkpoint is not None:
            self.hooks.checkpoint.after_step(
                self._depends_on,
                fraction_of(Stage.DENOISE, step, self._steps),
                lambda: capture(self._seconds),
                is_last=step == self._steps,
            )

    def after_part(self, done: int, parts: int) -> None:
        """What is due after a part of the decoding: an end; and a report, a hundred times at most."""
        self.check()
        if done * 100 // parts > (done - 1) * 100 // parts:
            # the file has still to be finished when all is decoded
            self.report(Stage.DECODE, done, parts + 1)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._begun


def fraction_of(stage: Stage, step: int, steps: int) -> float:
    begin, end = _SPANS[stage]
    return begin + (end - begin) * step / steps
