"""A video is fetched whole or not at all, over broken connections and within a limit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock import (
    DownloadError,
    GenerationFailedError,
    ResourceNotFoundError,
    UnexpectedResponseError,
    UnreachableError,
    VideoUnavailableError,
)
from tests.paddock.scripted import Answer, Scripted, Stream, error, row

VIDEO = bytes(range(256)) * 8
LOST = httpx.ReadError("the connection broke")
FINISHED = row("succeeded", result_url="http://paddock.test/api/files/video")


def sends(*chunks: bytes | Exception, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(200, headers=named, stream=Stream(*chunks))


def rest(request: httpx.Request) -> httpx.Response:
    """The response of a file server: the bytes asked for."""
    start = re.fullmatch(r"bytes=(\d+)-", request.headers["Range"])
    assert start is not None
    assert request.headers["If-Range"] == '"v1"'
    headers = {"Content-Range": f"bytes {start[1]}-{len(VIDEO) - 1}/{len(VIDEO)}", "ETag": '"v1"'}
    return httpx.Response(206, headers=headers, stream=Stream(VIDEO[int(start[1]) :]))


async def test_a_video_gets_its_name_when_it_is_complete(connect: Callable[..., Any], tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(_: httpx.Request) -> httpx.Response:
        seen.append([path.name for path in tmp_path.iterdir()])
        return httpx.Response(200, stream=Stream(VIDEO[:500], VIDEO[500:]))

    client = connect(Scripted(row=[FINISHED], video=[look]))
    generation = await client.get("one")

    assert await client.download(generation, tmp_path / "ox.mp4") == tmp_path / "ox.mp4"
    assert await client.download("one", str(tmp_path)) == tmp_path / "one.mp4"
    assert await client.download("one", tmp_path / "ox.mp4") == tmp_path / "ox.mp4"

    assert [re.sub(r"[0-9a-f]{32}", "…", name) for name in seen[0]] == [".….part"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"ox.mp4": VIDEO, "one.mp4": VIDEO}


async def test_a_broken_connection_is_resumed(connect: Callable[..., Any], tmp_path: Path) -> None:
    script = Scripted(row=[FINISHED], video=[sends(VIDEO[:700], LOST, ETag='"v1"'), LOST, rest])

    await connect(script).download("one", tmp_path / "ox.mp4")

    assert (tmp_path / "ox.mp4").read_bytes() == VIDEO
    assert [each.headers.get("Range") for each in script.of("video")] == [None, "bytes=700-", "bytes=700-"]


@pytest.mark.parametrize(
    ("headers", "asked"),
    [({"ETag": '"v1"'}, "bytes=3000-"), ({"ETag": 'W/"v1"'}, None), ({}, None)],
    ids=["it has changed", "weak", "no tag"],
)
async def test_a_download_that_cannot_be_resumed_starts_again(
    connect: Callable[..., Any], tmp_path: Path, headers: dict[str, str], asked: str | None
) -> None:
    script = Scripted(row=[FINISHED], video=[sends(b"x" * 3000, LOST, **headers), sends(VIDEO[:600], VIDEO[600:])])

    await connect(script).download("one", tmp_path / "ox.mp4")

    assert (tmp_path / "ox.mp4").read_bytes() == VIDEO
    assert script.of("video")[1].headers.get("Range") == asked


@pytest.mark.parametrize(
    ("answers", "class_", "sentence"),
    [
        ([sends(VIDEO[:700], LOST)], UnreachableError, "the connection broke"),
        ([error(404, "resource_not_found", "Expired.")], ResourceNotFoundError, "Expired"),
        ([sends(VIDEO, VIDEO)], DownloadError, "larger than max_bytes, 2048 bytes"),
        (
            [sends(VIDEO[:700], LOST, ETag='"v1"'), httpx.Response(206, headers={"Content-Range": "bytes 0-9/10"})],
            UnexpectedResponseError,
            "another part",
        ),
        ([httpx.Response(302, headers={"Location": "/api/files/video"})], UnexpectedResponseError, "more than 5 times"),
        ([httpx.Response(302, headers={"Location": "file:///etc"})], UnexpectedResponseError, "not of http or https"),
    ],
)
async def test_a_failed_download_leaves_the_old_file(
    connect: Callable[..., Any], tmp_path: Path, answers: list[Any], class_: type[Exception], sentence: str
) -> None:
    path = tmp_path / "ox.mp4"
    path.write_bytes(b"older")
    script = Scripted(row=[FINISHED], video=answers)

    with pytest.raises(class_, match=sentence):
        await connect(script).download("one", path, max_bytes=len(VIDEO))

    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


async def test_a_path_that_cannot_be_written_fails_before_any_request(
    connect: Callable[..., Any], tmp_path: Path
) -> None:
    script = Scripted(row=[FINISHED])

    with pytest.raises(DownloadError, match=r"could not be written to .*missing/ox\.mp4: No such file or directory"):
        await connect(script).download("one", tmp_path / "missing" / "ox.mp4")

    assert not script.requests


@pytest.mark.parametrize(
    ("answer", "class_", "sentence"),
    [
        (row("processing"), VideoUnavailableError, "one is processing: wait until it is over"),
        (row("failed", error_message="Too big."), GenerationFailedError, "failed: Too big"),
        (row("cancelled"), GenerationFailedError, "cancelled: by request"),
        (row("succeeded", error_message="Removed to make room."), VideoUnavailableError, "Removed to make room"),
        (row("succeeded"), VideoUnavailableError, "has no video any more"),
    ],
)
async def test_a_generation_without_a_video_is_an_error(
    connect: Callable[..., Any], tmp_path: Path, answer: dict[str, Any], class_: type[Exception], sentence: str
) -> None:
    with pytest.raises(class_, match=sentence):
        await connect(Scripted(row=[answer])).download("one", tmp_path / "ox.mp4")

    assert not list(tmp_path.iterdir())


async def test_an_id_cannot_leave_the_folder(connect: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    script = Scripted(**{"..%2Fox": [FINISHED], "row": [FINISHED], "ox": [FINISHED], "video": [sends(VIDEO)]})

    path = await connect(script).download("../ox", folder)

    assert path.parent == folder
    assert [each.name for each in tmp_path.iterdir()] == ["videos"]
