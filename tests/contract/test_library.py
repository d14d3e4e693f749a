"""The library over HTTP: cursors, filters, marks, many at once, and archives."""

import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest

from tests.contract.test_http import error_of
from tests.support.server_process import ENDLESS, MODEL, ServerProcess

CURSOR = "cursor must be the next_cursor of an answer to this key. Begin again without it."
IDS = "generation_ids must be a list of 1 to {} ids of generations"


def failed(server: ServerProcess, count: int = 1, **changes: Any) -> list[str]:
    """The ids of generations that fail at once, for their height is outside its limits; oldest first."""
    made = [server.enqueue(height=0, **changes) for _ in range(count)]
    assert all(server.row(id_)["status"] == "failed" for id_ in made)
    return made


def listed(server: ServerProcess, **params: Any) -> dict[str, Any]:
    response = server.http.get("/generations", params=params)
    assert response.status_code == 200, response.text
    return dict(response.json())


def ids_of(answer: dict[str, Any]) -> list[str]:
    return [row["generation_id"] for row in answer["generations"]]


def marked(server: ServerProcess, id_: str, **marks: Any) -> dict[str, Any]:
    response = server.http.patch(f"/generations/{id_}", json=marks)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_client_goes_on_from_the_first_page_by_cursor_while_others_come_and_go(tenant: ServerProcess) -> None:
    made = failed(tenant, 5)[::-1]
    first = listed(tenant, page_size=2)
    assert (ids_of(first), first["page_number"], first["total_pages"], first["total_entries"]) == (made[:2], 1, 3, 5)

    newer = failed(tenant)
    tenant.http.delete(f"/generations/{made[1]}").raise_for_status()
    tenant.http.delete(f"/generations/{made[3]}").raise_for_status()
    second = listed(tenant, page_size=1, cursor=first["next_cursor"])
    third = listed(tenant, page_size=2, cursor=second["next_cursor"])

    assert (ids_of(second), ids_of(third), third["next_cursor"]) == ([made[2]], [made[4]], None)
    assert {name: second[name] for name in second if name not in ("generations", "next_cursor")} == {
        "count": 1,
        "page_number": None,
        "page_size": 1,
        "total_pages": None,
        "total_entries": None,
        "total_cost": None,
    }
    assert ids_of(listed(tenant)) == [newer[0], made[0], made[2], made[4]]
    assert listed(tenant)["next_cursor"] is None
    assert ids_of(listed(tenant, page=2, page_size=3)) == [made[4]]
    unprefixed = httpx.get(f"{tenant.url}/generations", headers=tenant.http.headers, params={"page_size": 1}).json()
    assert ids_of(listed(tenant, cursor=unprefixed["next_cursor"])) == [made[0], made[2], made[4]]


def test_cursors_and_filters_that_cannot_be_used_are_sentences(
    tenant: ServerProcess, keyed_server: ServerProcess, keys: Iterator[str]
) -> None:
    failed(tenant, 2)
    cursor = listed(tenant, page_size=1)["next_cursor"]
    stranger = keyed_server.with_key(next(keys))

    def sentence(server: ServerProcess = tenant, **params: Any) -> str:
        return str(error_of(server.http.get("/generations", params=params), 400)["message"])

    assert sentence(cursor=cursor, page=1) == "cursor and page exclude each other: give one of them."
    for foreign in ("x", cursor[:-1], "", cursor + "x"):
        assert sentence(cursor=foreign) == CURSOR
    assert sentence(stranger, cursor=cursor) == CURSOR
    assert sentence(cursor="x" * 201).startswith("cursor: ")
    assert sentence(since=5, until=4) == "since must not be after until."
    for name, value in {
        "size": "832*480",
        "since": "-1",
        "until": "yesterday",
        "favourite": "perhaps",
        "tag": "x" * 41,
        "status": "succeeded,unknown",
        "search": "x" * 201,
        "page_size": "1001",
    }.items():
        assert sentence(**{name: value}).partition(":")[0].partition(".")[0] == name
    stranger.http.close()


def test_filters_combine_with_pages_and_cursors(tenant: ServerProcess) -> None:
    made = failed(tenant, 3, prompt="a red ox")
    (running,) = [tenant.enqueue(**{**ENDLESS, "prompt": "a red lake"})]
    tenant.http.delete(f"/queue/{running}")
    wide = tenant.enqueue(width=80)
    at = tenant.wait_for(wide, "succeeded")["enqueued_at"]
    marked(tenant, made[0], favourite=True, tags=["a", "b c"])
    marked(tenant, made[2], favourite=True)

    def found(**params: Any) -> list[str]:
        both = ids_of(listed(tenant, **params))
        walked = ids_of(first := listed(tenant, page_size=1, **params))
        while first["next_cursor"]:
            walked += ids_of(first := listed(tenant, page_size=1, cursor=first["next_cursor"], **params))
        assert walked == both
        return both

    assert found(status="failed") == made[::-1]
    assert found(status=["failed", "cancelled"], search="red") == [running, *made[::-1]]
    assert found(status="succeeded,cancelled") == [wide, running]
    assert found(size="80x64") == [wide]
    assert found(size="416x240", model=MODEL) == [running]
    assert found(favourite="true") == [made[2], made[0]]
    assert found(favourite="false", search="red ox") == [made[1]]
    assert found(tag="b c", favourite="true") == found(tag=" a ") == [made[0]]
    assert found(tag="A") == []
    assert found(since=at, until=at)[0] == wide
    assert found(until=at - 3600) == []
    facets = tenant.http.get("/generations/facets").json()
    assert facets["models"] == [{"model": MODEL, "count": 5}]
    assert {(each["size"], each["count"]) for each in facets["sizes"]} == {("80x64", 1), ("416x240", 1)}
    assert facets["favourites"] == 2
    assert tenant.http.get("/generations/tags").json() == {
        "data": [{"tag": "a", "count": 1}, {"tag": "b c", "count": 1}]
    }


def test_marks_are_in_every_row_and_no_parameter_shadows_them(tenant: ServerProcess) -> None:
    (id_,) = failed(tenant, favourite="mine", tags="mine")
    for row in (tenant.row(id_), tenant.http.get(f"/generations/{id_}").json()["generation"]):
        assert (row["favourite"], row["tags"]) == (False, [])

    row = marked(tenant, id_, favourite=True, tags=[" b ", "a", "b", "Ö x"])

    assert (row["generation_id"], row["favourite"], row["tags"]) == (id_, True, ["a", "b", "Ö x"])
    assert marked(tenant, id_, tags=["c"]) == {**row, "tags": ["c"]}
    assert tenant.row(id_)["tags"] == ["c"]
    assert tenant.listed("failed")[0]["favourite"] is True
    assert marked(tenant, id_, favourite=False, tags=[])["tags"] == []


def test_many_are_marked_at_once_or_none(tenant: ServerProcess) -> None:
    made = failed(tenant, 3)

    def mark(**body: Any) -> httpx.Response:
        return tenant.http.post("/generations/marks", json=body)

    assert mark(generation_ids=made + made, favourite=True, add_tags=["a", "b"]).json() == {"count": 3}
    assert mark(generation_ids=made[:1], remove_tags=["a"], add_tags=["c"]).json() == {"count": 1}
    assert [(row["favourite"], row["tags"]) for row in listed(tenant)["generations"][::-1]] == [
        *((True, ["b", "c"]), (True, ["a", "b"]), (True, ["a", "b"]))
    ]
    error = error_of(mark(generation_ids=[*made, "nope"], favourite=False), 404)
    assert error["message"] == "Nothing was done: no generation has the id 'nope'."
    error = error_of(mark(generation_ids=made, add_tags=[f"tag {n}" for n in range(19)]), 409)
    assert error["message"] == "A generation may have at most 20 tags: one of these would have 21."
    assert all(row["favourite"] for row in listed(tenant)["generations"])
    assert len(tenant.http.get("/generations/tags").json()["data"]) == 3


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "The body must have one of favourite, tags."),
        ({"favorite": True}, "'favorite' is not a name of this body: it may have favourite, tags."),
        ({"favourite": 1}, "favourite must be a boolean"),
        ({"favourite": None}, "favourite must be a boolean"),
        ({"tags": "a"}, "tags must be a list of at most 20 tags"),
        ({"tags": None}, "tags must be a list of at most 20 tags"),
        ({"tags": ["a"] * 21}, "tags must be a list of at most 20 tags"),
        ({"tags": [1]}, "tags must be strings"),
        ({"tags": ["a", " \u3000"]}, "tags: a tag must have 1 to 40 characters, besides spaces around it"),
        ({"tags": ["x" * 41]}, "tags: a tag must have 1 to 40 characters, besides spaces around it"),
        ({"tags": ["a\nb"]}, "tags: a tag must have no control characters, such as the end of a line"),
        ({"tags": ["a\x9fb"]}, "tags: a tag must have no control characters, such as the end of a line"),
    ],
)
def test_marks_that_cannot_be_are_sentences(server: ServerProcess, body: dict[str, Any], sentence: str) -> None:
    assert error_of(server.http.patch("/generations/any", json=body), 400)["message"] == sentence


@pytest.mark.parametrize(("route", "most"), [("marks", 500), ("delete", 500), ("archive", 200)])
def test_selections_that_cannot_be_are_sentences(server: ServerProcess, route: str, most: int) -> None:
    more = {"favourite": True} if route == "marks" else {}
    for ids in (None, [], "x", ["x"] * (most + 1)):
        error = error_of(server.http.post(f"/generations/{route}", json={"generation_ids": ids, **more}), 400)
        assert error["message"] == IDS.format(most)
    for id_ in ("", "x" * 101, 7, None):
        error = error_of(server.http.post(f"/generations/{route}", json={"generation_ids": [id_], **more}), 400)
        assert error["message"] == "generation_ids must be strings of 1 to 100 characters"
    error = error_of(server.http.post(f"/generations/{route}", json={"generation_ids": ["x"], "extra": 1}), 400)
    assert error["message"].startswith("'extra' is not a name of this body: it may have generation_ids")


def test_many_are_deleted_at_once_but_for_what_runs(tenant: ServerProcess) -> None:
    done, *over = tenant.enqueue(), *failed(tenant, 2)
    link = tenant.wait_for(done, "succeeded")["result_url"]
    running = tenant.enqueue(**ENDLESS)
    tenant.wait_for(running, "processing")
    marked(tenant, over[0], tags=["gone"])

    answer = tenant.http.post("/generations/delete", json={"generation_ids": [done, running, "nope", *over, done]})

    assert answer.json() == {
        "status": "success",
        "count": 3,
        "deleted": [done, *over],
        "not_deleted": [
            {
                "generation_id": running,
                "type": "conflict",
                "message": f"Generation {running} is processing: cancel it before you remove it.",
            },
            {"generation_id": "nope", "type": "resource_not_found", "message": "No generation has this id."},
        ],
    }
    assert ids_of(listed(tenant)) == [running]
    assert httpx.get(link).status_code == 404
    assert tenant.http.get("/generations/tags").json() == {"data": []}
    tenant.http.delete(f"/queue/{running}")


def opened(url: str) -> zipfile.ZipFile:
    """An archive by its link, as a browser without the key downloads it."""
    response = httpx.get(url)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == 'attachment; filename="paddock-videos.zip"'
    assert "content-length" not in response.headers
    head = httpx.head(url)
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "application/zip", b"")
    return zipfile.ZipFile(BytesIO(response.content))


def check_archive(server: ServerProcess) -> None:
    """Make an archive, and read it before and after one of its videos and one of its rows have vanished."""
    made = [
        server.enqueue(prompt=prompt, seed=seed) for seed, prompt in enumerate(("An ox, by a lake!", "湖边的牛", "…"))
    ]
    videos = {id_: server.video(id_) for id_ in made}
    (without,) = failed(server)
    names = dict(zip(made, ("-an-ox-by-a-lake", "-湖边的牛", ""), strict=True))
    names = {id_: f"paddock-{id_[:8]}{words}.mp4" for id_, words in names.items()}

    answer = server.http.post("/generations/archive", json={"generation_ids": [*made, without]}).json()

    assert {name: answer[name] for name in ("count", "bytes", "without_video")} == {
        "count": 3,
        "bytes": sum(map(len, videos.values())),
        "without_video": [without],
    }
    with opened(answer["url"]) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [*(names[id_] for id_ in made[::-1]), "left-out.txt"]
        assert {id_: archive.read(names[id_]) for id_ in made} == videos
        about = f"paddock-{without[:8]}-an-ox-by-a-lake.mp4: no video, it is failed"
        assert archive.read("left-out.txt").decode().splitlines() == ["Not in this archive:", about]
    server.http.delete(f"/generations/{made[0]}").raise_for_status()
    with opened(answer["url"]) as archive:
        assert archive.namelist() == [*(names[id_] for id_ in made[:0:-1]), "left-out.txt"]
        assert archive.read("left-out.txt").decode().splitlines()[2] == f"paddock-{made[0][:8]}: deleted"
    server.http.post("/generations/delete", json={"generation_ids": made}).raise_for_status()
    assert error_of(httpx.get(answer["url"]), 404)["message"] == "The videos of this archive were removed."


def test_an_archive_has_the_videos_byte_by_byte_and_says_what_is_missing(tenant: ServerProcess) -> None:
    check_archive(tenant)


def test_an_archive_comes_from_an_object_store_too(start_server: Callable[..., ServerProcess], bucket_url: str) -> None:
    check_archive(start_server(files_url=bucket_url))


def test_archives_are_of_ones_own_and_of_videos_that_there_are(
    tenant: ServerProcess, keyed_server: ServerProcess, keys: Iterator[str]
) -> None:
    id_, (without,) = tenant.enqueue(), failed(tenant)
    tenant.wait_for(id_, "succeeded")
    stranger = keyed_server.with_key(next(keys))

    def archive(server: ServerProcess, *ids: str) -> httpx.Response:
        return server.http.post("/generations/archive", json={"generation_ids": ids})

    error_of(archive(stranger, id_), 404)
    error_of(stranger.http.patch(f"/generations/{id_}", json={"favourite": True}), 404)
    error_of(stranger.http.post("/generations/marks", json={"generation_ids": [id_], "add_tags": ["x"]}), 404)
    deletion = stranger.http.post("/generations/delete", json={"generation_ids": [id_]}).json()
    assert (deletion["deleted"], deletion["not_deleted"][0]["type"]) == ([], "resource_not_found")
    assert stranger.http.get("/generations/facets").json() == {"models": [], "sizes": [], "favourites": 0}
    error = error_of(archive(tenant, without), 409)
    assert error["message"] == "None of these generations has a video."
    assert tenant.row(id_)["favourite"] is False
    url = archive(tenant, id_).json()["url"]
    for forged in (url.replace(".zip", "x.zip"), url.replace("archives/", "archives/x")):
        error_of(httpx.get(forged), 404)
    # the link of a video is none of an archive
    video = tenant.row(id_)["result_url"].rpartition("/")[2].removesuffix(".mp4")
    error_of(httpx.get(f"{tenant.url}/api/files/archives/{video}.zip"), 404)
    unprefixed = httpx.get(url.replace("/api/files/", "/files/"))
    assert zipfile.ZipFile(BytesIO(unprefixed.content)).testzip() is None
    stranger.http.close()


def test_links_to_archives_expire_as_those_of_videos(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(url_ttl="0.000001")
    id_ = server.enqueue()
    server.wait_for(id_, "succeeded")

    url = server.http.post("/generations/archive", json={"generation_ids": [id_]}).json()["url"]

    expired = "This link has expired; ask for the archive again."
    assert error_of(httpx.get(url), 404)["message"] == expired
