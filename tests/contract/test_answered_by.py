"""A text model's requests with an image are answered by the model that its file names."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pipelines.models.catalogue import BUILT_IN
from tests.contract.test_http import error_of
from tests.contract.test_image_input import drawn, in_base64, made, newest
from tests.support.models.serving import TI2V, ti2v_models, ti2v_server
from tests.support.server_process import MODEL, SMALL, ServerProcess

STEPS = 3
LARGE = "mine-720p"
REQUEST: dict[str, Any] = {name: value for name, value in SMALL.items() if name != "num_inference_steps"}
REQUEST |= {"model": MODEL, "seed": 7, "input_image": in_base64(drawn())}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on which a text model's images are answered by one that is installed, those of 720p by one that is not.

    It has no weights for text alone.
    """
    folder = tmp_path_factory.mktemp("answering")
    models = ti2v_models(folder)
    small = (models / "wan2.2-ti2v-5b.toml").read_text(encoding="utf-8").replace("default = 30", f"default = {STEPS}")
    (models / "wan2.2-ti2v-5b.toml").write_text(small, encoding="utf-8")
    large = (BUILT_IN / "wan2.2-ti2v-5b.toml").read_text(encoding="utf-8").replace(TI2V, LARGE)
    (models / "large.toml").write_text(large, encoding="utf-8")
    text = (BUILT_IN / "wan2.1-t2v-14b.toml").read_text(encoding="utf-8").partition("[image_model]")[0]
    answering = f'\n[image_model]\n480p = "{TI2V}"\n720p = "{LARGE}"\n'
    (models / "text.toml").write_text(text + answering, encoding="utf-8")
    process = ti2v_server(folder / "data", models)
    process.start()
    yield process
    process.close()


def test_the_image_model_answers_with_its_own_settings(server: ServerProcess) -> None:
    answer = server.http.post("/videos/generate", json=REQUEST)

    assert answer.json()["model"] == MODEL
    row = newest(server)
    assert (row["model_name"], row["answered_by"]) == (MODEL, TI2V)
    direct = {**REQUEST, "model": TI2V, "num_inference_steps": STEPS}
    assert made(server, answer) == made(server, server.http.post("/videos/generate", json=direct))
    assert "answered_by" not in newest(server)
    other = made(server, server.http.post("/videos/generate", json={**direct, "num_inference_steps": STEPS - 1}))
    assert other != made(server, answer)


def test_lists_and_events_tell_the_model_that_was_asked(server: ServerProcess) -> None:
    made(server, server.http.post("/videos/generate", json=REQUEST))
    id_ = newest(server)["generation_id"]

    def ids(model: str) -> set[str]:
        found = server.http.get("/generations", params={"model": model, "page_size": 100}).json()["generations"]
        return {row["generation_id"] for row in found}

    assert id_ in ids(MODEL)
    assert id_ not in ids(TI2V)
    with httpx.stream("GET", f"{server.url}/api/events", timeout=60) as stream:
        told = (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))
        event = next(each for each in told if each["generation_id"] == id_)
    assert event["model"] == MODEL


@pytest.mark.parametrize("size", [{"resolution": "720p"}, {"width": 1280, "height": 720}])
def test_an_image_model_that_is_not_installed_is_named_with_its_pull(
    size: dict[str, Any], server: ServerProcess
) -> None:
    body = {name: value for name, value in REQUEST.items() if name not in ("width", "height")} | size
    sentence = (
        f"input_image needs the model {LARGE}, which is not installed on this server. Its operator brings it with "
        f"`paddock pull --model {LARGE}`"
    )

    assert error_of(server.http.post("/videos/generate", json=body), 400)["message"] == sentence
    assert server.http.post("/queue", json=body).status_code == 200
    row = newest(server)
    assert (row["status"], row["error_message"], row["model_name"]) == ("failed", sentence, MODEL)


def test_without_an_image_the_model_answers_itself(server: ServerProcess) -> None:
    body = {name: value for name, value in REQUEST.items() if name != "input_image"}

    server.http.post("/queue", json=body)

    assert "answered_by" not in newest(server)


def test_the_model_says_that_it_takes_an_image_beside_its_pages_schema(server: ServerProcess) -> None:
    model = server.http.get(f"/models/{MODEL}").json()

    assert "input_image" in model["x-paddock-parameters"]
    assert "input_image" not in model["request_schema"]["properties"]
    assert model["capabilities"]["input"] == ["text"]
