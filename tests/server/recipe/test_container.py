"""The comment of an MP4 file is found without a library, whatever the file is."""

import struct
from pathlib import Path

import pytest

from server.recipe.container import read_comment, read_recipe
from server.recipe.recipe import MAX_BYTES, RecipeError
from tests.support.clips import ffmpeg, write_clip


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def mp4(comment: bytes, *before: bytes) -> bytes:
    said = box(b"\xa9cmt", box(b"data", struct.pack(">II", 1, 0), comment))
    return box(b"ftyp", b"isom") + box(b"moov", *before, box(b"udta", box(b"meta", bytes(4), box(b"ilst", said))))


def refused(path: Path) -> str:
    with pytest.raises(RecipeError) as error:
        read_comment(path)
    return str(error.value)


def test_the_comment_is_what_ffmpeg_wrote(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    ffmpeg("-i", str(clip), "-c", "copy", "-metadata", "comment=an ox é 水", str(tmp_path / "said.mp4"))
    late = ("-movflags", "-faststart")
    ffmpeg("-i", str(clip), "-c", "copy", "-metadata", "comment=an ox", *late, str(tmp_path / "late.mp4"))

    assert read_comment(tmp_path / "said.mp4").decode() == "an ox é 水"
    assert read_comment(tmp_path / "late.mp4") == b"an ox"
    assert refused(clip) == "it has no recipe"


def test_no_cut_of_a_file_does_more_than_give_a_sentence(tmp_path: Path) -> None:
    whole = mp4(b"an ox", box(b"trak", bytes(64)))
    path = tmp_path / "cut.mp4"
    said = set()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        said.add(refused(path))

    assert said == {"it is not an MP4 file", "it is damaged or not complete"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is not an MP4 file"),
        (b"\x1aE\xdf\xa3" + bytes(100), "it is not an MP4 file"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "it is not an MP4 file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "it is not an MP4 file"),
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(100)), "it is damaged or not complete"),
        (mp4(bytes(MAX_BYTES + 1)), "its recipe has more than 256 KiB"),
        # each box is as short as it may be
        (box(b"ftyp", b"isom") + box(b"free") * 20_000, "it is damaged: it has too many parts"),
        # longer than its file, and shorter than its own header
        (box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"moov", 2**63), "it is damaged or not complete"),
        (box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"moov", 0), "it is damaged or not complete"),
        (box(b"ftyp", b"isom") + struct.pack(">I4s", 7, b"moov"), "it is damaged or not complete"),
        (box(b"ftyp", b"isom") + box(b"moov", box(b"udta", b"no box at all")), "it is damaged or not complete"),
        (box(b"ftyp", b"isom") + box(b"moov", box(b"udta", box(b"meta", b""))), "it has no recipe"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "file.mp4"
    path.write_bytes(content)

    assert refused(path) == sentence


def test_a_path_without_a_file_is_refused_by_its_name(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path, "it is not a file"), (tmp_path / "none.mp4", "there is no such file")):
        with pytest.raises(RecipeError, match=rf"^{path.name} cannot be used: {sentence}\.$"):
            read_recipe(path)
