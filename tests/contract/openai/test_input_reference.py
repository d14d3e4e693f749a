"""`input_reference`: the image that a video begins with, in each form that OpenAI's clients send it."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.test_image_input import drawn, encoded, noise
from tests.support.models.serving import TI2V, ti2v_models, ti2v_server
from tests.support.openai import FAST, V1, openai_error, v1_of
from tests.support.server_process import ServerProcess

REQUEST: dict[str, Any] = {"prompt": "An ox by a lake", "model": TI2V, "size": "64x64", **FAST}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("references")
    process = ti2v_server(folder / "data", ti2v_models(folder), max_body_bytes="100000")
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def v1(server: ServerProcess) -> Iterator[V1]:
    with v1_of(server) as routes:
        yield routes


def form(**fields: Any) -> dict[str, Any]:
    return {name: (None, str(value)) for name, value in fields.items()}


def test_all_forms_of_an_image_give_the_same_video(server: ServerProcess, v1: V1) -> None:
    image = encoded(noise(200))
    assert len(image) > 100_000, "as text it exceeds the limit of a body without inputs"
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    headers = {"content-type": "image/png"}
    upload = server.http.post("/uploads", content=image, headers=headers).json()["id"]
    ours = v1.made(json={**REQUEST, "input_image": upload})

    forms: list[dict[str, Any]] = [
        {"files": {**form(**REQUEST), "input_reference": ("ox.png", image, "image/png")}},
        {"files": form(**REQUEST, **{"input_reference[image_url]": url})},
        {"files": form(**REQUEST, **{"input_reference[file_id]": upload})},
        {"json": {**REQUEST, "input_reference": {"image_url": url}}},
        {"json": {**REQUEST, "input_reference": {"file_id": upload, "image_url": None}}},
        {"json": {**REQUEST, "input_reference": url}},
    ]
    for options in forms:
        video = v1.made(**options)
        assert v1.content(video["id"]) == v1.content(ours["id"])
        assert server.row(video["id"])["input_image"].startswith(server.url)
    remix = v1.made(f"/videos/{ours['id']}/remix", json={"prompt": REQUEST["prompt"]})
    assert v1.content(remix["id"]) == v1.content(ours["id"])
    assert v1.content(v1.made(json=REQUEST)["id"]) != v1.content(ours["id"])


def test_an_image_decides_the_size_unless_the_request_does(v1: V1) -> None:
    files = {"input_reference": ("ox.png", encoded(drawn((60, 30))), "image/png")}
    video = v1.create(files={**form(prompt="An ox", model=TI2V), **files})
    v1.http.delete(f"/videos/{video['id']}")

    width, height = map(int, video["size"].split("x"))
    assert width == pytest.approx(2 * height, abs=4)


@pytest.mark.parametrize(
    "reference",
    [
        {"image_url": "ftp://images.example/ox.png"},
        {"image_url": "http://127.0.0.1:9/ox.png"},
        {"image_url": "data:image/png;base64,AAAA"},
        {"file_id": "upload:forged"},
        "not base64!",
    ],
)
def test_the_sentences_call_it_as_the_request_does(v1: V1, reference: Any) -> None:
    answer = v1.http.post("/videos", json={**REQUEST, "input_reference": reference})
    error = openai_error(answer, 400, "input_reference")

    assert error["message"].startswith("input_reference")
    assert "input_image" not in error["message"]


def test_a_body_has_a_limit_with_an_image_too(v1: V1) -> None:
    url = "data:image/png;base64," + "A" * 29 * 2**20
    bodies: list[dict[str, Any]] = [{**REQUEST, "input_reference": {"image_url": url}}, {**REQUEST, "more": url}]
    for body in bodies:
        openai_error(v1.http.post("/videos", json=body), 413)
    # what is no image counts as it always did
    openai_error(v1.http.post("/videos", files=form(**REQUEST, more="x" * 100_001)), 413)
