"""The last stage: frames → MP4, through a pipe into ffmpeg, under a temporary name until the file is complete."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from pipelines.core.errors import EncodingError
from pipelines.core.files import durable_rename, part_path
from pipelines.core.progress import Frames, VideoFile
from pipelines.stages.writing.ffmpeg import QUIET, encoding_error, find_ffmpeg, log_file, reason_in
from pipelines.stages.writing.joining import join
from pipelines.stages.writing.muxing import mux, samples_of
from pipelines.stages.writing.tagging import tag
from pipelines.stages.writing.wave_file import Samples, write_wave

# the bytes that x264 writes depend on its number of threads: with a fixed number, equal frames give equal files
X264_THREADS = 2

# ffmpeg takes the file's colour tags from the frames, even untagged ones, and ignores options like -color_primaries
_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)

_ENCODING = (
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-crf",
    "18",
    "-threads",
    str(X264_THREADS),
    "-pix_fmt",
    "yuv420p",
)
# no version strings and no dates in the file
_CONTAINER = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-f", "mp4")
_MUXING = ("-map_metadata", "-1", *_CONTAINER)


def check_output(path: Path) -> None:
    """Raise EncodingError if no video can be written to `path`, before any work is done for it.

    A file is replaced; anything else, such as a folder, a device or a link to one, is refused.
    """
    try:
        if not path.parent.is_dir():
            raise EncodingError(f"The video could not be written: {path.parent} is not a folder.")
        if path.exists() and not path.is_file():
            raise EncodingError(f"The video could not be written: {path} exists and is not a file.")
        part = part_path(path)
        part.touch()
        part.unlink()
    except OSError as error:
        raise encoding_error(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise encoding_error(f"{str(path)!r} is not the name of a file") from error
    find_ffmpeg()


class Mp4Writer:
    """A context that takes frames and leaves a complete H.264 file at `path`, or nothing.

    The file is yuv420p, tagged as BT.709, with its index first ("faststart"), so that browsers play it in the right
    colours. `width` and `height` are in pixels and must be even; `fps` is in frames a second. The frames of the video
    `before`, if there is one, precede those that are written, without its sound. The file `sound` is heard with all of
    them. Its methods raise EncodingError with ffmpeg's last message, or with a sentence about the full disk.
    """

    def __init__(
        self, path: Path, width: int, height: int, fps: int, before: Path | None = None, sound: Path | None = None
    ) -> None:
        self._before = before
        self._sound = sound
        self._must_be_heard = True
        # ffmpeg finds out that it is no MP4; by this name it is removed after a crash
        self._made_sound = part_path(path.with_name(f"{path.stem}.sound{path.suffix}"))
        self.lost_sound: str | None = None
        self.comment: str | None = None
        """What the file says as its comment; None: it has none."""
        self._path = path
        self._part = part_path(path)
        self._width, self._height, self._fps = width, height, fps
        self._num_frames = 0
        try:
            self._log = log_file()
        except OSError as error:
            raise encoding_error(str(error)) from error
        self._ffmpeg = subprocess.Popen(
            self._command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log
        )

    def _command(self) -> list[str]:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{self._width}x{self._height}"]
        return [
            *(find_ffmpeg(), *QUIET, "-y"),
            *(*source, "-r", str(self._fps), "-i", "pipe:0"),
            *("-vf", f"{_BT709},format=yuv420p", *_ENCODING, *_MUXING, str(self._part)),
        ]

    def write(self, frames: Frames) -> None:
        """Append RGB frames (n, height, width, 3) in uint8."""
        assert self._ffmpeg.stdin is not None
        try:
            self._ffmpeg.stdin.write(np.ascontiguousarray(frames).data)
        except BrokenPipeError as error:
            raise self._failure() from error
        self._num_frames += len(frames)

    def hear(self, samples: Samples, rate: int, *, must_be_heard: bool = True) -> None:
        """Let a sound be heard with the video, (channels, samples) in -1 … 1 at `rate` samples a second.

        If it need not be heard and cannot be written, the video is silent, and `lost_sound` has the reason.
        """
        try:
            write_wave(self._made_sound, samples, rate)
        except OSError as error:
            raise encoding_error(error.strerror or str(error)) from error
        self._sound, self._must_be_heard = self._made_sound, must_be_heard

    def close(self) -> VideoFile:
        """Finish the file: when this returns it is complete, synced and has its name."""
        assert self._ffmpeg.stdin is not None
        with suppress(BrokenPipeError):
            self._ffmpeg.stdin.close()
        if self._ffmpeg.wait() != 0:
            raise self._failure()
        if self._before is not None:
            self._join(self._before)
        if self._sound is not None:
            try:
                self._add(self._sound)
            except EncodingError as error:
                if self._must_be_heard:
                    raise
                self._sound, self.lost_sound = None, str(error)
        if self.comment is not None:
            with self._another("tagged") as whole:
                tag(self._part, self.comment, whole, _CONTAINER)
        try:
            durable_rename(self._part, self._path)
        except OSError as error:
            # some filesystems find out only now that there is no room
            self._path.unlink(missing_ok=True)
            raise encoding_error(error.strerror or str(error)) from error
        return VideoFile(
            path=self._path,
            width=self._width,
            height=self._height,
            num_frames=self._num_frames,
            fps=self._fps,
            size=self._path.stat().st_size,
            has_audio=self._sound is not None,
        )

    def _join(self, before: Path) -> None:
        with self._another("joined") as whole:
            self._num_frames = join(before, self._part, whole, self._fps, _ENCODING, _MUXING)

    def _add(self, sound: Path) -> None:
        with self._another("muxed") as whole:
            mux(self._part, sound, whole, samples_of(self._num_frames, self._fps), _MUXING)

    @contextmanager
    def _another(self, about: str) -> Iterator[Path]:
        """A context that gives the path of a file, which then takes the place of the unfinished one."""
        # named as other unfinished files, which are removed after a crash
        whole = part_path(self._path.with_name(f"{self._path.stem}.{about}{self._path.suffix}"))
        try:
            yield whole
            whole.replace(self._part)
        except OSError as error:
            raise encoding_error(error.strerror or str(error)) from error
        finally:
            whole.unlink(missing_ok=True)

    def _failure(self) -> EncodingError:
        self._ffmpeg.wait()
        reason = reason_in(self._log, self._ffmpeg.returncode)
        return encoding_error(reason.replace(str(self._part), "the file"))

    def __enter__(self) -> "Mp4Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ffmpeg.poll() is None:
            self._ffmpeg.kill()
            self._ffmpeg.wait()
        assert self._ffmpeg.stdin is not None
        with suppress(BrokenPipeError):
            self._ffmpeg.stdin.close()
        self._log.close()
        self._part.unlink(missing_ok=True)
        self._made_sound.unlink(missing_ok=True)
