"""A video is continued from its last frame, and both are one file."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from server.recipe.container import read_recipe
from tests.contract.test_image_input import drawn, in_base64
from tests.support.command_line import Typed
from tests.support.models.serving import I2V, TI2V, image_models, ti2v_server
from tests.support.server_process import SMALL, ServerProcess
from tests.support.sound import tone
from tests.support.video import read_video

KEYS = ("a-key-of-one", "a-key-of-another")
REQUEST: dict[str, Any] = {**SMALL, "model": TI2V, "seed": 7}
NONE = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("extending")
    process = ti2v_server(folder / "data", image_models(folder), api_keys=",".join(KEYS))
    process.start()
    process.http.headers["Authorization"] = f"Bearer {KEYS[0]}"
    yield process
    process.close()


def enqueued(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/queue", json={**REQUEST, **body})
    assert answer.status_code == 200, answer.text
    return server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded", "failed")


def frames_of(row: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert row["status"] == "succeeded", row["error_message"]
    return read_video(httpx.get(row["result_url"]).content)


@pytest.fixture(scope="module")
def first(server: ServerProcess) -> dict[str, Any]:
    return enqueued(server)


def test_the_new_video_goes_on_where_the_first_ended(server: ServerProcess, first: dict[str, Any]) -> None:
    row = enqueued(server, extend_from=first["generation_id"], num_frames=9)

    before, both = frames_of(first), frames_of(row)
    # the last frame is not repeated
    assert len(both) == 5 + 9 - 1
    assert np.array_equal(both[:5], before)
    assert row["extend_from"] == first["generation_id"]
    assert "input_image" not in row
    again = enqueued(server, extend_from=first["generation_id"], num_frames=9)
    assert httpx.get(again["result_url"]).content == httpx.get(row["result_url"]).content
    third = enqueued(server, extend_from=row["generation_id"])
    assert np.array_equal(frames_of(third)[:13], both)
    assert len(frames_of(third)) == 13 + 4


def test_both_are_made_again_by_the_recipe_in_their_file(
    server: ServerProcess, first: dict[str, Any], typed: Typed, tmp_path: Path
) -> None:
    sound = base64.b64encode(tone()).decode()
    row = enqueued(server, extend_from=first["generation_id"], input_audio=sound)
    both = tmp_path / "both.mp4"
    both.write_bytes(httpx.get(row["result_url"]).content)
    (tmp_path / "tone.wav").write_bytes(tone())
    before = hashlib.sha256(httpx.get(first["result_url"]).content).hexdigest()
    again = ("generate", "--from", "both.mp4", "-o", "again.mp4", "--audio", "tone.wav", "--url", server.url)

    asked = typed(*again, PADDOCK_API_KEY=KEYS[0])
    other = typed(*again, "--extend", row["generation_id"], PADDOCK_API_KEY=KEYS[0])
    done = typed(*again, "--extend", first["generation_id"], PADDOCK_API_KEY=KEYS[0])

    assert read_recipe(both).inputs.keys() == {"extend_from", "input_audio"}
    assert f"give --extend ID with the digest {before}." in asked.stderr
    assert f"--extend {row['generation_id']} is not what both.mp4 was made with" in other.stderr
    assert "The same bytes as both.mp4." in done.stdout
    assert (tmp_path / "again.mp4").read_bytes() == both.read_bytes()


def test_the_size_is_that_of_the_first(server: ServerProcess, first: dict[str, Any]) -> None:
    body = {"extend_from": first["generation_id"], "width": None, "height": None}
    assert frames_of(enqueued(server, **body)).shape == (9, 64, 64, 3)

    wide = enqueued(server, width=95, height=64)
    assert frames_of(enqueued(server, width=95, height=64, extend_from=wide["generation_id"])).shape == (9, 64, 96, 3)


def test_a_model_that_needs_an_image_continues_too(server: ServerProcess, first: dict[str, Any]) -> None:
    made = enqueued(server, model=I2V, input_image=in_base64(drawn()))
    row = enqueued(server, model=I2V, extend_from=made["generation_id"])
    assert np.array_equal(frames_of(row)[:5], frames_of(made))

    other = enqueued(server, model=I2V, extend_from=first["generation_id"])
    assert other["status"] == "failed"
    assert other["error_message"] == f"extend_from: the video of {TI2V} has 24 frames a second, and the new one 16"


def test_the_video_may_be_removed_meanwhile(server: ServerProcess) -> None:
    first = enqueued(server, seed=8)
    before = frames_of(first)
    answer = server.http.post("/queue", json={**REQUEST, "extend_from": first["generation_id"]})
    assert server.http.delete(f"/generations/{first['generation_id']}").status_code == 200

    row = server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded", "failed")

    assert np.array_equal(frames_of(row)[:5], before)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"extend_from": NONE}, "extend_from: there is no such generation"),
        ({"extend_from": 5}, "extend_from must be a string: the id of a generation"),
        ({"input_image": "AAAA"}, "extend_from and input_image exclude each other"),
        ({"input_video": "AAAA"}, "extend_from and input_video exclude each other"),
        ({"aspect_ratio": "1:1"}, "extend_from and aspect_ratio exclude each other"),
        ({"width": 32}, "width must be that of 64x64, as the video that extend_from names"),
        ({"num_frames": 1}, "num_frames must be at least 2 with extend_from"),
        ({"model": "wan-ai-wan2-1-t2v-1-3b-diffusers"}, "extend_from is not supported by"),
    ],
)
def test_what_cannot_be_continued_is_told(
    server: ServerProcess, first: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    body = {**REQUEST, "extend_from": first["generation_id"], **changes}
    answer = server.http.post("/videos/generate", json=body)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith(expected)


def test_the_generation_of_another_key_is_unknown(server: ServerProcess, first: dict[str, Any]) -> None:
    answer = httpx.post(
        f"{server.url}/api/ai/videos/generate",
        json={**REQUEST, "extend_from": first["generation_id"]},
        headers={"Authorization": f"Bearer {KEYS[1]}"},
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "extend_from: there is no such generation"


def test_a_generation_without_a_video_is_told(server: ServerProcess, tmp_path: Path) -> None:
    failed = enqueued(server, width=0)
    answer = server.http.post("/videos/generate", json={**REQUEST, "extend_from": failed["generation_id"]})

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        f"extend_from: generation {failed['generation_id']} is failed and has no video"
    )
