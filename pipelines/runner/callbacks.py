"""Callbacks that accompany a generation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.progress import CancelCheck, ProgressCallback
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.preview.preview import Preview


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Callbacks that accompany a generation. None of them changes what is seen and heard.

    `on_progress` is called after every step, and from another thread when the file is complete. `cancelled` is asked
    after every step and every group of frames. The generation continues from `checkpoint`, if that holds a state, and
    draws `preview`, if its latents can be projected to RGB. The prompts that `upcoming` returns are encoded while the
    device denoises, provided that the text encoder is resident. `on_warnings` is called with sentences about a request
    that cannot be followed in full. `comment` is given what the video depends on besides its request, the same for
    every machine with these weights and libraries, and returns the comment in its file, or None for no comment.
    """

    on_progress: ProgressCallback = lambda _: None
    cancelled: CancelCheck = lambda: False
    checkpoint: Checkpoint | None = None
    preview: Preview | None = None
    upcoming: Callable[[], Sequence[str]] = tuple
    on_warnings: Callable[[tuple[str, ...]], None] = lambda _: None
    comment: Callable[[Mapping[str, str]], str | None] = lambda _: None


NO_CALLBACKS = Callbacks()
"""Callbacks that do nothing."""
