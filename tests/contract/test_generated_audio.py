"""A video whose sound a model makes, as a client asks for it and sees it."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from demo_training.sound.judge import fitted
from demo_training.sound.sounds import RATE as DRAWN_RATE
from paddock import Client
from tests.support.models.serving import SOUND, T2V, TI2V, real_server, sound_models
from tests.support.server_process import ServerProcess, eventually
from tests.support.sound import RATE, packets, samples_of, tone

REQUEST: dict[str, Any] = {
    "model": T2V,
    "prompt": "an ox by a lake",
    "height": 32,
    "width": 32,
    "num_frames": 9,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "seed": 7,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound_models(tmp_path_factory.mktemp("sounding"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[ServerProcess]:
    process = real_server(tmp_path_factory.mktemp("server") / "data", models)
    process.start()
    yield process
    process.close()


def enqueued(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/queue", json={**REQUEST, **body})
    assert answer.status_code == 200, answer.text
    return server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded", "failed")


def video(row: dict[str, Any], folder: Path, name: str) -> Path:
    assert row["status"] == "succeeded", row["error_message"]
    path = folder / name
    path.write_bytes(httpx.get(row["result_url"]).content)
    return path


def test_the_sound_is_as_long_as_the_video_whose_picture_stays(server: ServerProcess, tmp_path: Path) -> None:
    silent, heard = enqueued(server), enqueued(server, generate_audio=True)

    assert "has_audio" not in silent
    assert (heard["has_audio"], heard["generate_audio"], heard["warnings"]) == (True, True, [])
    without, with_sound = video(silent, tmp_path, "silent.mp4"), video(heard, tmp_path, "heard.mp4")
    assert packets(with_sound) == packets(without)
    samples = samples_of(with_sound)
    assert 0 <= len(samples) - round(9 / 16 * RATE) < 2048
    assert np.abs(samples).max() > 0.01


def test_the_same_request_gives_the_same_bytes_and_another_sound_has_another_prompt(
    server: ServerProcess, tmp_path: Path
) -> None:
    first = video(enqueued(server, generate_audio=True), tmp_path, "a.mp4").read_bytes()
    again = video(enqueued(server, generate_audio=True), tmp_path, "b.mp4").read_bytes()
    row = enqueued(server, generate_audio=True, audio_prompt="loud wind")

    assert first == again != video(row, tmp_path, "c.mp4").read_bytes()
    assert row["audio_prompt"] == "loud wind"


def test_every_way_to_ask_for_a_sound(server: ServerProcess, tmp_path: Path) -> None:
    fields = {name: str(value) for name, value in REQUEST.items()} | {"generate_audio": "true", "audio_prompt": "12"}
    sync = server.http.post("/videos/generate", json={**REQUEST, "generate_audio": True, "audio_prompt": "12"})
    form = server.http.post("/videos/generate", files={name: (None, value) for name, value in fields.items()})
    with Client(server.url) as client:
        by_client = client.generate(
            REQUEST["prompt"],
            **{name: value for name, value in REQUEST.items() if name != "prompt"},
            generate_audio=True,
            audio_prompt="12",
        )
        client.download(by_client, tmp_path / "client.mp4")

    assert (sync.status_code, form.status_code) == (200, 200), (sync.text, form.text)
    files = {httpx.get(answer.json()["video_url"]).content for answer in (sync, form)}
    assert files == {(tmp_path / "client.mp4").read_bytes()}
    assert by_client.has_audio


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"generate_audio": "yes"}, "generate_audio must be a boolean"),
        ({"generate_audio": True, "audio_prompt": 7}, "audio_prompt must be a string of at most 10000 characters"),
        ({"generate_audio": True, "audio_prompt": "x" * 10_001}, "audio_prompt must be a string of at most 10000"),
        ({"generate_audio": True, "input_audio": "x"}, "generate_audio and input_audio exclude each other"),
        ({"generate_audio": True, "audio_url": "x"}, "generate_audio and audio_url exclude each other"),
    ],
)
def test_what_cannot_be_heard_is_refused(server: ServerProcess, body: dict[str, Any], sentence: str) -> None:
    sync = server.http.post("/videos/generate", json={**REQUEST, **body})

    assert sync.status_code == 400
    assert sentence in sync.json()["error"]["message"]
    row = enqueued(server, **body)
    assert row["status"] == "failed"
    assert sentence in row["error_message"]


@pytest.mark.parametrize("silent", [{"generate_audio": False}, {"generate_audio": None, "audio_prompt": None}])
def test_a_video_without_a_sound_can_be_asked_for(server: ServerProcess, silent: dict[str, Any]) -> None:
    assert "has_audio" not in enqueued(server, **silent)


def test_words_for_no_sound_are_ignored_and_told(server: ServerProcess) -> None:
    row = enqueued(server, audio_prompt="wind")

    assert row["status"] == "succeeded"
    assert "has_audio" not in row
    assert row["warnings"] == ["audio_prompt has no effect without generate_audio: it was ignored."]


def test_an_own_sound_is_muxed_by_the_same_server(server: ServerProcess, tmp_path: Path) -> None:
    row = enqueued(server, input_audio=base64.b64encode(tone()).decode(), generate_audio=False)

    assert row["has_audio"] is True
    assert len(samples_of(video(row, tmp_path, "a.mp4"))) == round(9 / 16 * RATE)


def test_the_model_page_says_which_models_make_sounds(server: ServerProcess) -> None:
    own = server.http.get(f"/models/{T2V}").json()["x-paddock-parameters"]

    assert own["generate_audio"]["type"] == "boolean"
    assert own["audio_prompt"]["type"] == "string"


def test_without_the_weights_of_the_sounds_a_request_says_how_to_bring_them(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = sound_models(tmp_path)
    server = real_server(tmp_path / "data", models)
    server.start()
    try:
        assert enqueued(server, generate_audio=True)["has_audio"] is True
        shutil.rmtree(tmp_path / "sound")
        answer = server.http.post("/videos/generate", json={**REQUEST, "generate_audio": True})
        assert answer.status_code == 400
        assert f"paddock pull --model {SOUND}" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text
        eventually(lambda: "generate_audio" not in server.http.get(f"/models/{T2V}").json()["x-paddock-parameters"])
        assert enqueued(server)["status"] == "succeeded"
    finally:
        server.close()


def test_the_demo_has_sounds_of_its_own(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    server.start()
    try:
        assert "generate_audio" in server.http.get(f"/models/{TI2V}").json()["x-paddock-parameters"]
        rows = [
            enqueued(server, num_frames=33, generate_audio=True, audio_prompt=words)
            for words in ("birds sing in a meadow", "鸟叫", "loud waves")
        ]

        kinds = fitted(64)
        files = [video(row, tmp_path, f"{number}.mp4") for number, row in enumerate(rows)]
        heard = [samples_of(path, DRAWN_RATE).mean(axis=1) for path in files]
        assert [kinds.kind(samples) for samples in heard] == ["birds", "birds", "waves"]
        assert [row["warnings"] for row in rows] == [[], [], []]
    finally:
        server.close()
