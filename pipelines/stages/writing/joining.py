"""Joins a video to the one that it continues: the packets of both in one file, without encoding them again."""

from pathlib import Path

from pipelines.stages.writing.ffmpeg import run

_HEAD_BYTES = 2**20
_AVCC = b"avcC"


def join(first: Path, second: Path, target: Path, fps: int, encoding: tuple[str, ...], muxing: tuple[str, ...]) -> int:
    """Write the frames of two MP4 files of equal size, at `fps`, to a third one, and return their number.

    Where both have the same parameters of H.264, as those of one version of ffmpeg have, the packets are copied;
    otherwise the frames are encoded again with ffmpeg's arguments `encoding`. `muxing` are those of the container.
    Raises EncodingError.
    """
    parameters = _parameters(first)
    if parameters is not None and parameters == _parameters(second):
        listed = "ffconcat version 1.0\n" + "".join(f"file {_quoted(path)}\n" for path in (first, second))
        source = ("-protocol_whitelist", "file,pipe", "-f", "concat", "-safe", "0", "-i", "pipe:0")
        # of the first one's sound nothing would follow
        return _run([*source, "-map", "0:v:0", "-c", "copy", *muxing, str(target)], listed)
    files = [argument for path in (first, second) for argument in ("-i", f"file:{path.absolute()}")]
    return _run(
        [
            *files,
            "-filter_complex",
            f"[0:v]fps={fps}[first];[first][1:v]concat=n=2:v=1",
            *encoding,
            *muxing,
            str(target),
        ],
        "",
    )


def _run(arguments: list[str], text: str) -> int:
    said = run(["-progress", "pipe:1", *arguments], text, "The video could not be joined")
    counted = [line.removeprefix(b"frame=") for line in said.splitlines() if line.startswith(b"frame=")]
    return int(counted[-1])


def _parameters(path: Path) -> bytes | None:
    """Return the parameters with which the video of an MP4 file was encoded; None if they are not at its beginning."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    at = head.find(_AVCC)
    # the length of a box is before its name
    return None if at < 4 else head[at : at - 4 + int.from_bytes(head[at - 4 : at])]


def _quoted(path: Path) -> str:
    # a name without a protocol would be one within the pipe
    return "'file:" + str(path.absolute()).replace("'", r"'\''") + "'"
