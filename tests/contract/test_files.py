"""Videos over HTTP: ranges, links for the address that a client used, and their expiry."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx

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


def test_links_are_made_for_the_address_that_was_asked(server: ServerProcess) -> None:
    id_ = server.enqueue()
    server.wait_for(id_, "succeeded")

    row = server.http.get(f"/queue/{id_}", headers={"Host": "192.168.0.7:9000"}).json()

    assert row["result_url"].startswith("http://192.168.0.7:9000/api/files/")


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
