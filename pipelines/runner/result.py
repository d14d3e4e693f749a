"""What comes of a generation: frames in memory, or a video whose file is being finished."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipelines.core.progress import Frames, GenerationStats, VideoFile
from pipelines.stages.video_writer import Mp4Writer


@dataclass(frozen=True, slots=True)
class RenderedFrames:
    """A video in memory: (num_frames, height, width, 3), the passes computed for it, and the seconds of denoising."""

    frames: Frames
    passes: int
    seconds: float


class RenderedVideo:
    """A video all of whose frames are made: what is left is its file, which takes no device and may take a thread."""

    def __init__(self, writer: Mp4Writer, work: GenerationStats, on_finished: Callable[[], None]) -> None:
        self._writer = writer
        self._work = work
        self._on_finished = on_finished

    def finish(self) -> VideoFile:
        """Wait until the file is whole; raises EncodingError, and leaves nothing then. To be called once, always."""
        with self._writer as writer:
            video = writer.close()
        self._on_finished()
        return replace(video, stats=self._work)
