"""Who is told and asked while a video is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.core.progress import CancelCheck, ProgressCallback
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.preview.preview import Preview


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What may accompany a video; nothing of it changes the video.

    `on_progress` hears of every step, and from another thread that the file is whole. `cancelled` is asked at every
    step, or group of frames. A `checkpoint` is gone on from, if it holds anything, and a `preview` drawn, where it is
    known how. Prompts that `upcoming` gives are encoded while the device denoises, if their encoder is on it.
    """

    on_progress: ProgressCallback = lambda _: None
    cancelled: CancelCheck = lambda: False
    checkpoint: Checkpoint | None = None
    preview: Preview | None = None
    upcoming: Callable[[], Sequence[str]] = tuple


NO_CALLBACKS = Callbacks()
"""Nobody is told, and nobody asked."""
