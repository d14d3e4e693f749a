"""LoRAs of requests over HTTP: they are listed, change the video, and leave nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.demo.folder import demo_folder
from pipelines.models.registry import family_of
from tests.contract.test_http import error_of
from tests.support.models.loras import write_lora
from tests.support.server_process import CLEAN_ENDS, MODEL, SMALL, ServerProcess

WIDTH = family_of("WanPipeline").read_shape(demo_folder()).transformer.width
LAYERS = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_v")


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """Two LoRAs for the demo weights, and one for others."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for seed, name in enumerate(("first", "second")):
        write_lora(folder / f"{name}.safetensors", WIDTH, LAYERS, seed)
    write_lora(folder / "foreign.safetensors", WIDTH + 16, LAYERS)
    return folder


@pytest.fixture
def server(tmp_path: Path, loras: Path) -> Iterator[ServerProcess]:
    """A demo server with that folder."""
    process = ServerProcess(tmp_path / "data", loras_dir=str(loras))
    process.start()
    yield process
    assert process.stop() in CLEAN_ENDS, process.log_text()
    process.close()


def video(server: ServerProcess, *loras: str, strength: float = 1.0) -> bytes:
    listed = [{"name": name, "strength": strength} for name in loras]
    row = server.wait_for(server.enqueue(seed=5, loras=listed), "succeeded")
    assert row["loras"] == listed
    return httpx.get(row["result_url"]).content


def test_videos_with_loras_do_not_depend_on_each_other(server: ServerProcess, loras: Path) -> None:
    listed = server.http.get("/loras").json()["data"]
    assert [lora["name"] for lora in listed] == ["first", "foreign", "second"]
    assert listed == server.http.get(f"{server.url}/loras").json()["data"]
    assert listed[0] | {"models": []} == {
        "name": "first",
        "models": [],
        "size": (loras / "first.safetensors").stat().st_size,
        "source": "folder",
        "description": None,
        "strength": 1.0,
    }
    assert MODEL in listed[0]["models"]
    assert listed[1]["models"] == []
    fitting = server.http.get("/loras", params={"model": MODEL}).json()["data"]
    assert [lora["name"] for lora in fitting] == ["first", "second"]
    error_of(server.http.get("/loras", params={"model": "nope"}), 404)

    plain, first = video(server), video(server, "first")
    assert video(server, "second") not in (plain, first)
    assert video(server) == plain != first
    assert video(server, "first", strength=-1.5) != first
    server.stop()
    server.start()
    assert video(server, "first") == first

    for name in ("nope", "foreign", "../loras/first"):
        refused = server.http.post("/videos/generate", json={**SMALL, "loras": [{"name": name}]})
        sentence = f"loras: {name} is not a LoRA of {MODEL}. It has first, second."
        assert error_of(refused, 400)["message"] == sentence
        assert server.row(server.enqueue(loras=[{"name": name}]))["error_message"] == sentence


def test_a_file_that_is_gone_when_its_turn_comes_fails_that_generation(server: ServerProcess, loras: Path) -> None:
    # the device is busy until the file is gone
    busy = server.enqueue(num_inference_steps=40, width=256, height=256)
    server.wait_for(busy, "processing")
    waiting = server.enqueue(loras=[{"name": "first"}])
    (loras / "first.safetensors").unlink()
    server.http.delete(f"/queue/{busy}")
    row = server.wait_for(waiting, "failed")
    assert row["error_message"] == "The LoRA first is not on this machine, or not any more."
    server.wait_for(server.enqueue(), "succeeded")
