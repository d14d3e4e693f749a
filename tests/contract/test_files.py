"""Videos over HTTP: ranges, links for the address that a client used, and their expiry."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
from itsdangerous import URLSafeTimedSerializer

from tests.contract.test_http import error_of
from tests.support.server_process import ServerProcess, eventually


def test_files_support_ranges_and_head(server: ServerProcess) -> None:
    url = server.wait_for(server.enqueue(), "succeeded")["result_url"]
    whole = httpx.get(url)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"

    part = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert httpx.get(url, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
    head = httpx.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


def test_a_file_that_a_client_has_is_not_sent_again(server: ServerProcess) -> None:
    url = server.wait_for(server.enqueue(), "succeeded")["result_url"]
    whole = httpx.get(url)
    tag, modified = whole.headers["etag"], whole.headers["last-modified"]
    assert whole.headers["cache-control"] == "private, max-age=3600"

    for known in ({"If-None-Match": tag}, {"If-None-Match": f'"other", W/{tag}'}, {"If-Modified-Since": modified}):
        again = httpx.get(url, headers=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for other in ({"If-None-Match": '"other"'}, {"If-None-Match": '"other"', "If-Modified-Since": modified}):
        assert httpx.get(url, headers=other).content == whole.content


def test_an_unknown_range_unit_is_ignored(server: ServerProcess) -> None:
    url = server.wait_for(server.enqueue(), "succeeded")["result_url"]

    for unknown in ("frames=1-2", "seconds=0-", "nonsense"):
        whole = httpx.get(url, headers={"Range": unknown})
        assert whole.status_code == 200
        assert int(whole.headers["content-length"]) == len(whole.content)


def test_head_is_answered_wherever_get_is_but_for_the_stream(server: ServerProcess) -> None:
    id_ = server.enqueue()
    server.wait_for(id_, "succeeded")
    for path in (
        *("/", "/web/js/main.js", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/favicon.ico"),
        *("/api/ai/models", "/queue"),
        *(
            f"/api/ai/queue/{id_}",
            f"/api/ai/generations/{id_}",
            "/api/ai/generations",
            "/api/ai/loras",
            "/models/featured",
        ),
    ):
        get, head = (httpx.request(method, f"{server.url}{path}") for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"], path
    assert httpx.head(f"{server.url}/api/ai/queue/none").status_code == 404
    refused = httpx.head(f"{server.url}/api/events")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


def test_links_are_made_for_the_address_that_was_asked(server: ServerProcess) -> None:
    id_ = server.enqueue()
    server.wait_for(id_, "succeeded")

    row = server.http.get(f"/queue/{id_}", headers={"Host": "192.168.0.7:9000"}).json()

    assert row["result_url"].startswith("http://192.168.0.7:9000/api/files/")


def test_links_of_the_version_before_stay_good(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "data" / "v0.1.0", tmp_path / "data")
    (tmp_path / "data" / "signing.key").write_text("of the version before")
    server = start_server()
    for waiting in server.http.get("/queue").json()["generations"]:
        server.http.delete(f"/queue/{waiting['generation_id']}")
    (row,) = server.http.get("/generations", params={"status": "succeeded"}).json()["generations"]
    video = httpx.get(row["result_url"]).content

    old = URLSafeTimedSerializer("of the version before", salt="video")
    (file,) = (server.data_dir / "videos").glob(f"{row['generation_id']}.*.mp4")
    assert httpx.get(f"{server.url}/api/files/{old.dumps(file.stem)}.mp4").content == video
    # and those of now are signed by the records, wherever the file has gone
    (server.data_dir / "signing.key").unlink()
    server.stop()
    server.start()
    assert httpx.get(row["result_url"]).content == video


def test_a_public_url_and_a_links_end(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    # with a video in it, for which no worker need start
    shutil.copytree(Path(__file__).parents[1] / "data" / "v0.1.0", tmp_path / "data")
    server = start_server(public_url="https://video.example/base/", url_ttl="2")
    for waiting in server.http.get("/queue").json()["generations"]:
        server.http.delete(f"/queue/{waiting['generation_id']}")
    (row,) = server.http.get("/generations", params={"status": "succeeded"}).json()["generations"]
    url = row["result_url"]
    assert url.startswith("https://video.example/base/api/files/")
    here = url.replace("https://video.example/base", server.url)
    assert httpx.get(here).status_code == 200

    eventually(lambda: httpx.get(here).status_code != 200)

    assert "expired" in error_of(httpx.get(here), 404)["message"]
    assert server.row(row["generation_id"])["result_url"] != url
