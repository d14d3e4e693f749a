"""The hosted model page: our schema reproduces its parameter tables, and its example clients run as printed."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from server.core.settings.settings import Settings
from server.runtime.app import create_app
from tests.contract.model_page import HOST, PAGE, Client, clients, tables
from tests.support.models.random_weights import random_folder
from tests.support.server_process import MODEL, ServerProcess, model_on, needs
from tests.support.video import read_video


def rendered(schema: dict[str, Any]) -> list[str]:
    """The rows of the page's tables, as its generator writes them from a request schema."""
    required = schema["required"]
    properties = sorted(schema["properties"].items(), key=lambda item: (item[0] not in required, item[1]["x-order"]))
    return [row(name, one) for name, one in properties]


def row(name: str, one: dict[str, Any]) -> str:
    default = f"`{json.dumps(one['default'])}`" if "default" in one else "—"
    about = one["description"]
    if "minimum" in one:
        about += f" Range: {one['minimum']} – {one['maximum']}."
    return f"| `{name}` | `{one['type']}` | {default} | {about} |"


@pytest.mark.parametrize("demo", [True, False])
def test_the_schema_reproduces_the_pages_tables(demo: bool, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(demo=demo, data_dir=tmp_path)), "http://localhost") as http:
        for_tools = http.get("/api/evaluations/models").json()["models"][0]
        model = http.get(f"/api/ai/models/{MODEL}").json()

    schema = for_tools["json_request_schema"]
    assert rendered(schema) == tables()
    assert schema == model["request_schema"] == model["json_request_schema"]
    own = model["x-paddock-parameters"]
    common = {"step_cache", "sampler", "loras", "image_mode", "input_video", "strength", "inspiration"}
    common |= {"input_audio", "audio_url"}
    # another model answers what has an image, and the demo's weights are for text; its grammar needs no language model,
    # and its weights that make sounds are there
    only_demo = {"enhance_prompt", "prompt_extend", "generate_audio", "audio_prompt"}
    only_real = {"input_image", "extend_from"}
    assert own.keys() == common | (only_demo if demo else only_real)
    assert not own.keys() & schema["properties"].keys()
    assert schema["basic"] == ["prompt", "height", "width"]
    assert [one["x-order"] for one in schema["properties"].values()] == list(range(8))
    assert all(one["title"] for one in schema["properties"].values())
    for about in (for_tools["display_name"], for_tools["summary"], *for_tools["description"].split("\n\n")):
        assert about in PAGE.read_text()
    assert (for_tools["model_type"], for_tools["can_run_inference"], for_tools["deprecated"]) == ("base", True, False)
    assert for_tools["capabilities"] == {"input": ["text"], "output": ["video"]}
    assert for_tools["developer"] == {"name": "wan-ai", "display_name": "Wan-AI", "logo": None}
    assert model["weights"] == ("demo" if demo else "real")


def test_the_page_has_twelve_clients() -> None:
    assert len({client.name for client in clients()}) == 12
    assert all(HOST in client.code for client in clients())


@pytest.fixture(scope="module")
def quick_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with tiny random weights under the model's id.

    The page's clients request the full size, which would take a minute with the demo weights. The content of the videos
    does not matter here.
    """
    folder = tmp_path_factory.mktemp("page")
    models = str(model_on(random_folder(folder / "weights", plain=True), folder))
    server = ServerProcess(folder / "data", "--no-demo", "--device", "cpu", demo=False, models_dir=models)
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize("client", clients(), ids=lambda client: client.name)
def test_each_client_of_the_page_prints_the_url_of_its_video(
    client: Client, quick_server: ServerProcess, tmp_path: Path
) -> None:
    printed = run(client, quick_server, tmp_path)

    url = result_url(client, printed)
    video = httpx.get(url)
    assert video.headers["content-type"] == "video/mp4"
    assert read_video(video.content).shape == (81, 480, 832, 3)


def test_real_weights_are_not_announced_as_demo_weights(quick_server: ServerProcess) -> None:
    answer = quick_server.http.get("/models")

    assert "x-paddock-weights" not in answer.headers
    assert answer.json()["data"][0]["weights"] == "real"


def run(client: Client, server: ServerProcess, folder: Path) -> str:
    """Run a client with only the host name changed; returns its output."""
    code = client.code.replace(HOST, server.url)
    environment = {**os.environ, "OXEN_API_KEY": "any-key"}
    command = [sys.executable, "-c", code]
    if client.language == "bash":
        for program in ("curl", "jq", "awk"):
            needs(program)
        command = [needs("bash"), "-c", code]
        # use Debian's awk, whatever awk this machine has
        (folder / "bin").mkdir()
        (folder / "bin" / "awk").symlink_to(needs("mawk"))
        environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    return subprocess.run(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True, text=True, timeout=240
    ).stdout


def result_url(client: Client, printed: str) -> str:
    """The URL of the video in the output of a client."""
    match client.transport, client.language:
        case "Sync", language:
            answer = json.loads(printed) if language == "bash" else ast.literal_eval(printed)
            assert answer["model"] == MODEL
            return str(answer["videos"][0]["url"])
        case "Async", "bash":
            # each poll's status, then the row
            statuses, row = printed.split("{", 1)
            assert statuses.split("\n")[-2] == "Status: succeeded"
            return str(json.loads("{" + row)["result_url"])
        case "Async", _:
            assert printed.startswith("Result: ")
            return printed.removeprefix("Result: ").strip()
        case _, language:
            event = json.loads(printed) if language == "bash" else ast.literal_eval(printed)
            assert (event["status"], event["media_type"], event["model"]) == ("succeeded", "video", MODEL)
            return str(event["url"])
