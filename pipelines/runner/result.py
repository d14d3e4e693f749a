"""The results of a generation: frames in memory, or a video whose file is still being finished."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipelines.core.progress import Frames, GenerationStats, VideoFile
from pipelines.stages.writing.video_writer import Mp4Writer


@dataclass(frozen=True, slots=True)
class RenderedFrames:
    """A video in memory, (num_frames, height, width, 3).

    `passes` is the number of computed passes of the transformer, `seconds` the time of denoising.
    """

    frames: Frames
    passes: int
    seconds: float


class RenderedVideo:
    """A video whose frames are all written. Finishing its file needs no device and may happen in another thread."""

    def __init__(self, writer: Mp4Writer, stats: GenerationStats, on_finished: Callable[[], None]) -> None:
        self._writer = writer
        self._stats = stats
        self._on_finished = on_finished

    def tag(self, comment: str | None) -> None:
        """Have the file say this as its comment; None: it has no comment."""
        self._writer.comment = comment

    def finish(self) -> VideoFile:
        """Wait until the file is complete. Must be called exactly once. Raises EncodingError, then leaves no file."""
        with self._writer as writer:
            video = writer.close()
        self._on_finished()
        return replace(video, stats=self._stats)
