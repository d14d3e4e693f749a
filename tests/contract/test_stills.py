"""The thumbnail and the spritesheet of a video over HTTP: what they show, who may fetch them, and how long."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from server.media.pictures.stills_layout import thumbnail_frame, tile_frames
from tests.contract.test_http import error_of
from tests.support.server_process import SMALL, ServerProcess, eventually
from tests.support.stills import TOLERANCE, difference, tiles
from tests.support.video import read_video

FIELDS = ("thumbnail_url", "spritesheet_url")


def picture(url: str) -> Image.Image:
    """The picture behind a link, which needs no key."""
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp"), answer.text
    opened = Image.open(io.BytesIO(answer.content))
    opened.load()
    assert opened.format == "WEBP"
    return opened


@pytest.mark.parametrize(
    ("request_", "thumbnail", "sheet"),
    [
        ({"width": 416, "height": 240, "num_frames": 33}, (384, 222), (768, 444)),
        ({"width": 80, "height": 128, "num_frames": 5}, (80, 128), (320, 512)),
        ({"num_frames": 1}, (64, 64), (256, 256)),
    ],
    ids=["landscape", "portrait", "one frame"],
)
def test_a_video_has_both(
    server: ServerProcess, request_: dict[str, int], thumbnail: tuple[int, int], sheet: tuple[int, int]
) -> None:
    row = server.wait_for(server.enqueue(**request_), "succeeded")
    frames = read_video(httpx.get(row["result_url"]).content)
    assert len(frames) == request_["num_frames"]

    small, many = (picture(row[name]) for name in FIELDS)

    assert (small.size, many.size) == (thumbnail, sheet)
    assert difference(small, frames[thumbnail_frame(len(frames))]) < TOLERANCE
    for number, tile in zip(tile_frames(len(frames)), tiles(many), strict=True):
        assert difference(tile, frames[number]) < TOLERANCE, number


def test_every_row_has_the_fields_and_no_parameter_takes_their_place(tenant: ServerProcess) -> None:
    mine = dict.fromkeys(FIELDS, "https://elsewhere.example/mine.webp")
    waiting = tenant.enqueue(num_inference_steps=100, num_frames=33, **mine)
    row = tenant.row(waiting)
    assert [row[name] for name in FIELDS] == [None, None]
    tenant.http.delete(f"/queue/{waiting}")
    assert [tenant.wait_for(waiting, "cancelled")[name] for name in FIELDS] == [None, None]
    failed = tenant.wait_for(tenant.enqueue(height=0), "failed")
    assert [failed[name] for name in FIELDS] == [None, None]

    id_ = tenant.enqueue(**mine)
    tenant.wait_for(id_, "succeeded")

    listed: list[dict[str, Any]] = tenant.http.get("/queue", params={"status": "succeeded"}).json()["generations"]
    history = tenant.http.get("/generations", params={"status": "succeeded"}).json()["generations"]
    one = tenant.http.get(f"/generations/{id_}").json()["generation"]
    for found in (tenant.row(id_), *listed, *history, one):
        for name in FIELDS:
            assert found[name].startswith(f"{tenant.url}/api/files/stills/")
            picture(found[name])


def test_they_are_cached_as_videos_are_and_go_with_theirs(tenant: ServerProcess) -> None:
    id_ = tenant.enqueue()
    row = tenant.wait_for(id_, "succeeded")
    url = row["thumbnail_url"]
    whole, head = httpx.get(url), httpx.head(url)
    assert whole.headers["cache-control"] == "private, max-age=3600"
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole.content)))
    assert httpx.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert httpx.get(url, headers={"Range": "bytes=0-3"}).content == b"RIFF"
    # without the prefix, as all routes
    assert httpx.get(url.replace("/api/files/", "/files/")).content == whole.content

    # a link to a picture is none to its video, nor the other way round
    token, video = (urlsplit(row[name]).path.rpartition("/")[2] for name in ("thumbnail_url", "result_url"))
    error_of(httpx.get(f"{tenant.url}/api/files/{token.replace('.thumbnail.webp', '.mp4')}"), 404)
    error_of(httpx.get(f"{tenant.url}/api/files/stills/{video.replace('.mp4', '.thumbnail.webp')}"), 404)

    assert tenant.http.delete(f"/generations/{id_}").status_code == 200
    for name in FIELDS:
        error_of(httpx.get(row[name]), 404)
    assert not list((tenant.data_dir / "stills").glob(f"{id_}*"))


def test_the_same_video_has_the_same_pictures(server: ServerProcess) -> None:
    rows = [server.wait_for(server.enqueue(seed=7, num_frames=9), "succeeded") for _ in range(2)]
    for name in (*FIELDS, "result_url"):
        one, other = (httpx.get(row[name]).content for row in rows)
        assert one == other, name


def test_videos_of_earlier_versions_get_theirs_while_the_server_is_idle(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    shutil.copytree(Path(__file__).parents[1] / "data" / "v0.2.0", tmp_path / "data")
    server = start_server()
    for waiting in server.http.get("/queue").json()["generations"]:
        server.http.delete(f"/queue/{waiting['generation_id']}")

    def old() -> list[dict[str, Any]]:
        rows = server.http.get("/generations", params={"status": "succeeded"}).json()["generations"]
        return [row for row in rows if row["result_url"] is not None]

    assert old()
    eventually(lambda: all(row["thumbnail_url"] for row in old()), server)
    for row in old():
        frames = read_video(httpx.get(row["result_url"]).content)
        assert difference(picture(row["thumbnail_url"]), frames[thumbnail_frame(len(frames))]) < TOLERANCE


def test_a_video_without_them_is_a_video_all_the_same(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    # a file where the folder was: nothing can be kept there
    (server.data_dir / "stills").rmdir()
    (server.data_dir / "stills").write_bytes(b"")

    row = server.wait_for(server.enqueue(), "succeeded")

    assert [row[name] for name in FIELDS] == [None, None]
    assert len(read_video(httpx.get(row["result_url"]).content)) == SMALL["num_frames"]
    assert "were not made" in server.log_text()
