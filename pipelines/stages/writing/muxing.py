"""Puts a sound into the file of a video: exactly as long as the video, whose packets stay as they are."""

from pathlib import Path

from pipelines.core.errors import InputAudioError
from pipelines.core.files import sha256_of
from pipelines.core.request import VideoParams
from pipelines.stages.writing.ffmpeg import run

RATE = 48_000
"""Samples a second of each channel in the file."""

_ENCODING = ("-c:a", "aac", "-b:a", "192k", "-flags:a", "+bitexact")


def audio_digest(path: Path) -> str:
    """Return what identifies a sound: the SHA-256 of its file, as hexadecimal digits. Raises InputAudioError."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputAudioError(f"The sound cannot be read: {error.strerror or error}.") from error


def check_audio(path: Path | None, params: VideoParams) -> None:
    """Raise InputAudioError unless a file is that of the sound that a request names."""
    if path is None and params.audio is None:
        return
    if path is None or params.audio is None:
        raise InputAudioError("The request's sound is missing." if path is None else "The request has no sound.")
    if audio_digest(path) != params.audio:
        raise InputAudioError("The sound is not the request's: its file may be damaged.")


def samples_of(num_frames: int, fps: int) -> int:
    """How many samples are as long as so many frames."""
    return round(num_frames * RATE / fps)


def mux(video: Path, sound: Path, target: Path, samples: int, muxing: tuple[str, ...]) -> None:
    """Write the video of one MP4 file and the sound of another file to a third one, in stereo.

    The sound is cut to `samples`, or silence follows it. `muxing` are ffmpeg's arguments for the container. Equal files
    give equal bytes. Raises EncodingError.
    """
    # cut or filled by samples: with -shortest a shorter sound would cut the video
    length = f"apad=whole_len={samples},atrim=end_sample={samples}"
    run(
        [
            *("-i", f"file:{video.absolute()}", "-i", f"file:{sound.absolute()}"),
            *("-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy"),
            *("-af", f"aresample={RATE},aformat=channel_layouts=stereo,{length}", *_ENCODING),
            *(*muxing, str(target)),
        ],
        "",
        "The sound could not be written",
    )
