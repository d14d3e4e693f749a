"""Real servers whose files are in an object store, and two of them on the same records."""

from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from PIL import Image

from tests.e2e.test_recovery import RESUMED, await_progress
from tests.support.object_store import BUCKET, ObjectStoreServer
from tests.support.server_process import CLEAN_ENDS, SMALL, ServerProcess, eventually
from tests.support.sound import tone


def kept(s3: ObjectStoreServer, url: str, kind: str) -> list[str]:
    """The names of the files of a kind below a URL."""
    prefix = f"{url.removeprefix(f's3://{BUCKET}/')}/{kind}/"
    listed = s3.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [each["Key"].removeprefix(prefix) for each in listed]


def png() -> str:
    """A small image as a data URL."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def test_a_server_keeps_its_files_in_the_store_and_serves_them(
    start_server: Callable[..., ServerProcess], bucket_url: str, s3: ObjectStoreServer
) -> None:
    server = start_server(files_url=bucket_url)
    id_ = server.enqueue(input_image=png(), image_mode="first_frame")
    row = server.wait_for(id_, "succeeded")
    link = row["result_url"]

    assert kept(s3, bucket_url, "videos") == [f"{id_}.1.mp4"]
    assert kept(s3, bucket_url, "stills") == [f"{id_}.1.spritesheet.webp", f"{id_}.1.thumbnail.webp"]
    for picture in ("thumbnail_url", "spritesheet_url"):
        assert httpx.get(row[picture]).headers["content-type"] == "image/webp"
    assert len(kept(s3, bucket_url, "inputs")) == 1
    eventually(lambda: not kept(s3, bucket_url, "checkpoints") + kept(s3, bucket_url, "previews"))
    assert not (server.data_dir / "videos").exists()
    assert not (server.data_dir / "signing.key").exists()
    whole = httpx.get(link)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.content[4:8] == b"ftyp"
    part = httpx.get(link, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert httpx.get(link, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert httpx.head(link).headers["content-length"] == str(len(whole.content))
    assert httpx.get(row["input_image"]).headers["content-type"] == "image/png"

    # its own video as the input of another one
    clip = "data:video/mp4;base64," + b64encode(whole.content).decode()
    made_of_it = server.enqueue(input_video=clip)
    assert server.video(made_of_it)
    assert len(kept(s3, bucket_url, "inputs")) == 2
    heard = server.wait_for(server.enqueue(input_audio=b64encode(tone(1.0)).decode()), "succeeded")
    assert heard["has_audio"] is True
    assert httpx.get(heard["input_audio"]).headers["content-type"] == "audio/flac"
    assert b"soun" in httpx.get(heard["result_url"]).content
    assert server.http.delete(f"/generations/{heard['generation_id']}").status_code == 200

    assert server.http.delete(f"/generations/{id_}").status_code == 200
    assert kept(s3, bucket_url, "videos") == [f"{made_of_it}.1.mp4"]
    assert len(kept(s3, bucket_url, "stills")) == 2
    assert httpx.get(link).status_code == httpx.get(row["thumbnail_url"]).status_code == 404


def test_links_redirect_to_the_store_where_that_is_set(
    start_server: Callable[..., ServerProcess], bucket_url: str, s3: ObjectStoreServer
) -> None:
    server = start_server(files_url=bucket_url, redirect_links="true", url_ttl="900")
    link = server.wait_for(server.enqueue(), "succeeded")["result_url"]

    sent = httpx.get(link)

    assert sent.status_code == 302
    assert sent.headers["location"].startswith(f"{s3.url}/{BUCKET}/")
    assert sent.headers["cache-control"] == "no-store"
    # the store's link lives no longer than ours may
    assert parse_qs(urlsplit(sent.headers["location"]).query)["X-Amz-Expires"] == ["900"]
    video = httpx.get(sent.headers["location"], headers={"Range": "bytes=4-7"})
    assert (video.status_code, video.content, video.headers["content-type"]) == (206, b"ftyp", "video/mp4")
    assert httpx.head(link).status_code == 200
    assert httpx.get(link, headers={"Sec-Fetch-Site": "same-origin"}).content[4:8] == b"ftyp"
    assert httpx.get(link.replace(".mp4", "x.mp4")).status_code == 404


@pytest.mark.heavy
def test_another_server_goes_on_where_a_killed_one_was(
    start_server: Callable[..., ServerProcess], bucket_url: str, s3: ObjectStoreServer, postgres_url: str
) -> None:
    shared: dict[str, Any] = {"files_url": bucket_url, "database_url": postgres_url}
    first = start_server(name="first", checkpoint_interval="0.1", lease="2", **shared)
    done = first.enqueue(**RESUMED)
    undisturbed = first.video(done)
    link = first.row(done)["result_url"]
    interrupted = first.enqueue(**RESUMED)
    reached = await_progress(first, interrupted, 0.5)
    eventually(lambda: kept(s3, bucket_url, "checkpoints"), first)

    first.kill()
    second = start_server(name="second", lease="2", **shared)

    def begun() -> float:
        row = second.row(interrupted)
        return float(row["progress"]) if row["eta_seconds"] is not None else 0.0

    # it has not started over
    assert eventually(begun, second) > reached / 2
    assert second.video(interrupted) == second.video(done) == undisturbed
    # the path of a link that the other server gave
    assert httpx.get(second.url + urlsplit(link).path).content == undisturbed
    assert sorted(kept(s3, bucket_url, "videos")) == sorted([f"{done}.1.mp4", f"{interrupted}.2.mp4"])
    eventually(lambda: not kept(s3, bucket_url, "checkpoints"), second)


@pytest.mark.heavy
def test_a_store_that_goes_away_costs_no_generation(
    start_server: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ObjectStoreServer()
    url = own.use(monkeypatch)
    server = start_server(files_url=url, unhealthy_cooldown="1")
    link = server.wait_for(server.enqueue(), "succeeded")["result_url"]
    assert httpx.get(link).status_code == 200
    own.stop()
    assert httpx.get(link).status_code == 503

    id_ = server.enqueue()
    eventually(lambda: "cannot be" in server.log_text() or "was not stored" in server.log_text(), server)
    assert server.row(id_)["status"] in ("queued", "processing")
    assert (
        server.http.post("/queue", json={**SMALL, "input_image": png(), "image_mode": "first_frame"}).status_code == 503
    )
    assert server.stop() in CLEAN_ENDS
