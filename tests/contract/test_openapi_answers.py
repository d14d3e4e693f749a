"""Every status of the OpenAPI document is given by the real server, and every answer is as the document says."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
from openapi_spec_validator import OpenAPIV31SpecValidator

from server.core.settings.settings import Settings
from server.runtime.app import create_app
from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from server.storage.db.statements.signing_keys import keys_that_sign
from server.storage.files.inputs import Inputs, input_key
from server.storage.files.signing import LinkSigner
from server.storage.files.stores import LocalFolders, link_signer, upload_signer
from tests.contract.test_http import LONG
from tests.contract.test_image_input import drawn, encoded
from tests.support.chat_server import ChatServer
from tests.support.records import free_locks
from tests.support.server_process import MODEL, SMALL, ServerProcess, eventually, free_port

DOCUMENT = create_app(Settings(demo=True)).openapi()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
WITH_KEY = {name for name, (_, _, operation) in OPERATIONS.items() if operation["security"]}
HEADERS = {"Content-Range", "ETag", "Last-Modified", "Paddock-Warnings", "Retry-After", "WWW-Authenticate"}
"""What is documented wherever it is sent."""

MARK = {"favourite": True}
WORDS = {"prompt": "An ox by a lake"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Asker:
    """Calls operations by their ids, checks each answer against the document, and records the statuses."""

    def __init__(self, server: ServerProcess, seen: set[tuple[str, str]]) -> None:
        self._server = server
        self._seen = seen

    def ask(self, name: str, *ids: str, key: str | None = "one", **options: Any) -> httpx.Response:
        """Call an operation with the values of its path, and return the answer."""
        with self.open(name, *ids, key=key, **options) as response:
            response.read()
            self._check_body(name, response)
        return response

    @contextmanager
    def open(self, name: str, *ids: str, key: str | None = "one", **options: Any) -> Iterator[httpx.Response]:
        """Call an operation and check the head of the answer."""
        method, template, _ = OPERATIONS[name]
        values = iter(ids)
        path = re.sub(r"{\w+}", lambda _: next(values), template)
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        headers |= options.pop("headers", {})
        with self._server.http.stream(method, self._server.url + path, headers=headers, **options) as response:
            self._check_head(name, response)
            yield response

    def _check_head(self, name: str, response: httpx.Response) -> None:
        status = str(response.status_code)
        declared = OPERATIONS[name][2]["responses"]
        assert status in declared, (name, status, response.read())
        media_type = response.headers.get("content-type", "").partition(";")[0]
        assert media_type in (declared[status].get("content") or {""}), (name, status)
        sent = {header for header in HEADERS if header in response.headers}
        assert sent <= declared[status].get("headers", {}).keys(), (name, status)
        assert response.headers.get("retry-after", "0").isdecimal()
        self._seen.add((name, status))

    def _check_body(self, name: str, response: httpx.Response) -> None:
        content = OPERATIONS[name][2]["responses"][str(response.status_code)].get("content", {})
        if "application/json" in content:
            schema = {**content["application/json"]["schema"], "components": DOCUMENT["components"]}
            errors = [each.message for each in jsonschema_rs.validator_for(schema).iter_errors(response.json())]
            assert errors == [], (name, response.text)
            if response.is_error and not OPERATIONS[name][1].startswith("/v1/"):
                assert response.json()["status"] == "error"
        elif not content:
            assert response.content == b""


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_operation_ids_are_unique_and_of_one_style() -> None:
    assert len(OPERATIONS) == sum(map(len, DOCUMENT["paths"].values()))
    assert [name for name in OPERATIONS if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", name)] == []


def parts(node: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values in a JSON document with their places."""
    yield names, node
    for name, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from parts(child, *names, str(name))


def test_generators_understand_every_schema() -> None:
    for names, node in parts(DOCUMENT):
        assert names[-1:] != ("itemSchema",)
        assert "ValidationError" not in str(node) or not isinstance(node, str), names
        if isinstance(node, dict) and node.get("type") == "null":
            # null is one of several types, never the only one
            assert names[-2] in ("anyOf", "oneOf"), names
        if names[-2:-1] == ("content",):
            assert node["schema"], names


def test_every_example_is_valid() -> None:
    examples = [(node, node["example"]) for _, node in parts(DOCUMENT) if isinstance(node, dict) and "example" in node]
    assert len(examples) > 50
    for node, example in examples:
        # a body's example stands beside its schema, a schema's own within it
        schema = {**node.get("schema", node), "components": DOCUMENT["components"]}
        assert [each.message for each in jsonschema_rs.validator_for(schema).iter_errors(example)] == [], example


def test_every_documented_answer_is_given_and_every_answer_is_documented(
    start_server: Callable[..., ServerProcess], tmp_path: Path, bucket_url: str, chat: ChatServer
) -> None:
    seen: set[tuple[str, str]] = set()
    server = start_server(
        api_keys="one,stream,busy",
        allowed_hosts="paddock.test",
        max_requests_per_key="1",
        max_body_bytes="4096",
        preview_interval="0.05",
        enhance_url=chat.url,
        enhance_model="stand-in",
    )
    asker = Asker(server, seen)
    succeed(asker, server)
    refuse(asker, server)
    broken = tmp_path / "loras"
    broken.mkdir()
    down = {"enhance_url": f"http://127.0.0.1:{free_port()}/v1", "enhance_model": "none"}
    break_records(Asker(start_server(api_keys="one", name="broken", loras_dir=str(broken), **down), seen), tmp_path)
    faulty = start_server(api_keys="one", name="faulty", module="tests.support.faulty_server")
    Asker(faulty, seen).ask("generateVideo", json={**SMALL, "prompt": "nan at denoise"})
    redirecting = start_server(api_keys="one", name="redirecting", files_url=bucket_url, redirect_links="true")
    sends_on = Asker(redirecting, seen)
    wait_for(sends_on, id_ := enqueue(sends_on, **SMALL), "result_url")
    link = sends_on.ask("getQueuedGeneration", id_).json()["result_url"]
    sends_on.ask("downloadVideo", link.rsplit("/", 1)[1], key=None)
    assert sends_on.ask("downloadVideoContent", id_).status_code == 302

    documented = {(name, status) for name, (_, _, operation) in OPERATIONS.items() for status in operation["responses"]}
    assert documented - seen == set()


def succeed(asker: Asker, server: ServerProcess) -> None:
    """Call each operation as it is meant to be called."""
    for name in ("getHealth", "getReadiness", "getMetrics", "listEvaluationModels", "listFeaturedModels"):
        asker.ask(name)
    for name in ("listModels", "listLoras", "listQueue", "listGenerations"):
        asker.ask(name, params={"model": MODEL})
    asker.ask("searchModels", params={"search": "wan"})
    asker.ask("getModel", MODEL)
    asker.ask("activateModel", MODEL)
    asker.ask("deactivateModel", MODEL)
    with asker.open("followEvents", key="stream"):
        pass
    made = asker.ask("generateVideo", json={**SMALL, "mood": "calm"})
    assert "mood" in made.headers["paddock-warnings"]
    asker.ask("generateVideo", json={**SMALL, "response_format": "b64_json"})
    download(asker, "downloadVideo", made.json()["videos"][0]["url"].rpartition("/")[2])
    still = asker.ask("listGenerations", params={"status": "succeeded"}).json()["generations"][0]["thumbnail_url"]
    download(asker, "downloadStill", still.rpartition("/")[2])
    download(asker, "downloadInput", image_in(server.data_dir))
    asker.ask("uploadInput", content=encoded(drawn()), headers={"Content-Type": "image/png"})
    asker.ask("enhancePrompt", json=WORDS)
    use_library(asker)
    use_openai(asker)
    asker.ask("estimateGeneration", json=SMALL)
    running = enqueue(asker, **{**LONG, "mood": "calm"})
    wait_for(asker, running, "preview_url")
    asker.ask("getPreview", running)
    assert asker.ask("deleteGeneration", running).status_code == 409
    asker.ask("cancelGeneration", running)
    assert asker.ask("getPreview", running).status_code == 404
    asker.ask("getGeneration", running)
    asker.ask("deleteGeneration", running)
    server.wait_until_idle()


def use_library(asker: Asker) -> None:
    """Mark, archive and delete generations, one that has succeeded and one that has failed."""
    kept, other = (row["generation_id"] for row in asker.ask("listGenerations").json()["generations"])
    without = enqueue(asker, **{**SMALL, "height": 0})
    asker.ask("markGeneration", kept, json={"favourite": True, "tags": [f"tag {number}" for number in range(20)]})
    asker.ask("markGenerations", json={"generation_ids": [kept, without], "favourite": False})
    assert asker.ask("markGeneration", without, json={}).status_code == 400
    more = {"generation_ids": [kept], "add_tags": ["x"]}
    assert asker.ask("markGenerations", json=more).status_code == 409
    fail = {**SMALL, "height": 0, "num_generations": 4}
    failed = [each for _ in range(3) for each in asker.ask("enqueueGenerations", json=fail).json()["generations"]]
    # with those of the first one the tenth of these would have more different tags than a key may have
    marked = [
        asker.ask("markGeneration", each["generation_id"], json={"tags": [f"tag {at}.{n}" for n in range(20)]})
        for at, each in enumerate(failed[:10])
    ]
    assert [each.status_code for each in marked] == [200] * 9 + [409]
    for name in ("listTags", "listFacets"):
        asker.ask(name)
    assert asker.ask("archiveGenerations", json={"generation_ids": [without]}).status_code == 409
    link = asker.ask("archiveGenerations", json={"generation_ids": [kept]}).json()["url"]
    asker.ask("downloadArchive", link.rpartition("/")[2], key=None)
    assert asker.ask("downloadArchive", "forged.zip", key=None).status_code == 404
    asker.ask("deleteGenerations", json={"generation_ids": [other, without, UNKNOWN]})


def use_openai(asker: Asker) -> None:
    """Request, list, download and delete videos as OpenAI's clients do."""
    asker.ask("listOpenaiModels")
    asker.ask("retrieveOpenaiModel", MODEL)
    first = asker.ask("createVideo", json={**SMALL, "mood": "calm"})
    assert "mood" in first.headers["paddock-warnings"]
    id_ = first.json()["id"]
    asker.ask("listVideos")
    eventually(lambda: asker.ask("retrieveVideo", id_).json()["status"] == "completed")
    download(asker, "downloadVideoContent", id_, key="one")
    of_video = {**WORDS, "video": {"id": id_}, "mood": "calm"}
    for name, *path, body in (
        ("remixVideo", id_, {**WORDS, "mood": "calm"}),
        ("editVideo", of_video),
        ("extendVideo", {**of_video, "image_mode": "first_frame"}),
    ):
        made = asker.ask(name, *path, json=body)
        assert (made.status_code, "mood" in made.headers["paddock-warnings"]) == (200, True)
        asker.ask("deleteVideo", made.json()["id"])


def refuse_openai(asker: Asker) -> None:
    """Call OpenAI's operations in the ways that only they refuse."""
    assert asker.ask("retrieveOpenaiModel", "unknown").status_code == 404
    for name in ("retrieveVideo", "deleteVideo", "downloadVideoContent"):
        assert asker.ask(name, UNKNOWN).status_code == 404
    assert asker.ask("listVideos", params={"after": UNKNOWN}).status_code == 404
    of_video = {**WORDS, "video": {"id": UNKNOWN}}
    for name in ("remixVideo", "extendVideo", "editVideo"):
        assert asker.ask(name, UNKNOWN, json=of_video).status_code == 404
    id_ = asker.ask("createVideo", json=SMALL).json()["id"]
    eventually(lambda: asker.ask("retrieveVideo", id_).json()["status"] == "completed")
    of_video = {**WORDS, "video": {"id": id_}, "image_mode": "first_frame"}
    for name, body in (
        ("remixVideo", WORDS),
        ("extendVideo", of_video),
        ("editVideo", {**WORDS, "video": {"id": id_}}),
        ("createVideo", SMALL),
    ):
        assert asker.ask(name, id_, json={}).status_code == 400
        if name != "remixVideo":
            assert asker.ask(name, id_, json={**body, "model": "unknown"}).status_code == 404
        assert asker.ask(name, id_, json={**body, "prompt": "ox " * 4096}).status_code == 413
        assert asker.ask(name, id_, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
        once = {"Idempotency-Key": f"of {name}"}
        asker.ask(name, id_, json=body, headers=once)
        assert asker.ask(name, id_, json={**body, "seed": 1}, headers=once).status_code == 409


def enqueue(asker: Asker, **body: Any) -> str:
    return str(asker.ask("enqueueGenerations", json=body).json()["generations"][0]["generation_id"])


def wait_for(asker: Asker, generation_id: str, field: str) -> None:
    eventually(lambda: asker.ask("getQueuedGeneration", generation_id).json()[field])


def image_in(data_dir: Path) -> str:
    """The token of an image that is put into a data directory."""
    folder = LocalFolders.of(data_dir).inputs
    key = input_key("", "0" * 64)
    (folder.folder / key).write_bytes(bytes(100))
    with opened(f"sqlite:///{data_dir / 'paddock.db'}") as engine:
        keys = keys_that_sign(engine)
    return Inputs(folder, link_signer(keys, 60, "input"), upload_signer(keys), free_locks()).links.sign(key)


def is_answered(asker: Asker, name: str, token: str, status: int, **options: Any) -> bool:
    return asker.ask(name, token, **options).status_code == status


def download(asker: Asker, name: str, token: str, key: str | None = None) -> None:
    whole = asker.ask(name, token, key=key)
    etag = {"If-None-Match": whole.headers["etag"]}
    eventually(lambda: asker.ask(name, token, key=key, headers=etag).status_code == 304)
    for requested, status in (("bytes=0-9", 206), ("bytes=999999999-", 416), ("bytes=5-3", 400)):
        headers = {"Range": requested}
        # the request before counts until all of its answer is sent, and this key may have one at a time
        eventually(partial(is_answered, asker, name, token, status, key=key, headers=headers))
    eventually(lambda: asker.ask(name, "forged.mp4", key=key).status_code == 404)


def refuse(asker: Asker, server: ServerProcess) -> None:
    """Call the operations in all ways that the server refuses."""
    for name in OPERATIONS:
        assert asker.ask(name, UNKNOWN, headers={"Host": "evil.test"}).status_code == 400
    for name in WITH_KEY:
        assert asker.ask(name, UNKNOWN, key=None).status_code == 401
    with asker.open("followEvents", key="busy"):
        for name in WITH_KEY:
            assert asker.ask(name, UNKNOWN, key="busy").status_code == 429
    for name in ("getQueuedGeneration", "cancelGeneration", "getGeneration", "deleteGeneration", "getModel"):
        assert asker.ask(name, UNKNOWN).status_code == 404
    for name in ("activateModel", "deactivateModel"):
        assert asker.ask(name, UNKNOWN).status_code == 404
    assert asker.ask("listLoras", params={"model": "unknown"}).status_code == 404
    for name in ("listQueue", "listGenerations"):
        assert asker.ask(name, params={"status": "unknown"}).status_code == 400
    assert asker.ask("searchModels").status_code == 400
    for content, media_type, status in (
        (bytes(21 * 2**20), "image/png", 413),
        (b"no image", "image/png", 400),
        (b"{}", "application/json", 415),
    ):
        answer = asker.ask("uploadInput", content=content, headers={"Content-Type": media_type})
        assert answer.status_code == status
    for name in ("enqueueGenerations", "generateVideo"):
        refuse_bodies(asker, name)
    refuse_selections(asker)
    refuse_openai(asker)
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"json": {}}, 400),
        ({"json": {**WORDS, "model": "unknown"}}, 404),
        ({"json": {"prompt": "ox " * 4096}}, 413),
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    ]
    for body, status in wrong:
        assert asker.ask("enhancePrompt", **body).status_code == status
        assert asker.ask("estimateGeneration", **body).status_code == status
    with opened(f"sqlite:///{server.data_dir / 'paddock.db'}") as engine:
        KeyRing(engine).add("admin", is_admin=True)
        for name in ("activateModel", "deactivateModel"):
            eventually(lambda name=name: asker.ask(name, UNKNOWN).status_code == 403)


def refuse_selections(asker: Asker) -> None:
    many = {"generation_ids": [UNKNOWN]}
    for name, body in (
        ("markGeneration", MARK),
        ("markGenerations", {**many, **MARK}),
        ("archiveGenerations", many),
        ("deleteGenerations", many),
    ):
        if name != "deleteGenerations":
            assert asker.ask(name, UNKNOWN, json=body).status_code == 404
        assert asker.ask(name, UNKNOWN, json={**body, "tags": "x" * 5000}).status_code == 413
        assert asker.ask(name, UNKNOWN, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


def refuse_bodies(asker: Asker, name: str) -> None:
    assert asker.ask(name, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert asker.ask(name, json={**SMALL, "num_generations": 0}).status_code == 400
    assert asker.ask(name, json={**SMALL, "model": "unknown"}).status_code == 404
    assert asker.ask(name, json={**SMALL, "prompt": "ox " * 4096}).status_code == 413
    assert asker.ask(name, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    once = {"Idempotency-Key": f"of {name}"}
    asker.ask(name, json=SMALL, headers=once)
    assert asker.ask(name, json={**SMALL, "seed": 1}, headers=once).status_code == 409


def break_records(asker: Asker, folder: Path) -> None:
    """Damage the database of a running server, and remove its folders of LoRAs and images."""
    with opened(f"sqlite:///{folder / 'broken' / 'paddock.db'}") as engine:
        archive = LinkSigner(keys_that_sign(engine), 60, "archive").sign("1.00000000")
    (folder / "loras").rmdir()
    (folder / "broken" / "inputs").rmdir()
    for suffix in ("", "-wal", "-shm"):
        path = folder / "broken" / f"paddock.db{suffix}"
        with path.open("r+b") as file:
            start = 4096 if not suffix else 0
            file.seek(start)
            file.write(b"\xff" * (path.stat().st_size - start))
    for name, (method, _, operation) in OPERATIONS.items():
        if "503" in operation["responses"]:
            body: dict[str, Any] = {"json": SMALL} if method == "post" else {}
            if name == "uploadInput":
                body = {"files": {"file": encoded(drawn())}}
            if name == "enhancePrompt":
                body = {"json": WORDS}
            if name in ("extendVideo", "editVideo"):
                body = {"json": {**WORDS, "video": {"id": UNKNOWN}}}
            if name == "markGeneration":
                body = {"json": MARK}
            if name in ("markGenerations", "deleteGenerations", "archiveGenerations"):
                body = {"json": {"generation_ids": [UNKNOWN], **(MARK if name == "markGenerations" else {})}}
            if name == "downloadArchive":
                assert asker.ask(name, f"{archive}.zip", key=None).status_code == 503
                continue
            assert asker.ask(name, UNKNOWN, **body).status_code == 503, name
