"""Videos are made again from their files alone: what a file says is all that its video was made of."""

import base64
import random
from pathlib import Path
from typing import Any

import pytest

from server.recipe.container import read_recipe
from tests.contract.test_image_input import drawn, encoded
from tests.support.clips import write_clip
from tests.support.command_line import Typed
from tests.support.server_process import ServerProcess
from tests.support.sound import tone

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]

TEXTS = 50
WITH_INPUTS = 10

WORDS = ("ox", "lake", "fog", "red", "slowly", "水牛", "zoë", '"mist"', "[b]", "a;b", "#1", "x=y", "\\", "\n", "🐂")


def drawn_request(chance: random.Random) -> dict[str, Any]:
    """A request that takes a fraction of a second, with any of the parameters of a text model."""
    optional = {
        "negative_prompt": " ".join(chance.sample(WORDS, 3)),
        "guidance_scale": round(chance.uniform(0, 9), 2),
        "sampler": chance.choice(["unipc", "dpm++", "euler"]),
        "step_cache": chance.choice(["exact", "balanced", "fast"]),
        "run_fast": chance.random() < 0.5,
        "target_repo": "a-repo",
    }
    chosen = {name: value for name, value in optional.items() if chance.random() < 0.5}
    return {
        "prompt": "an " + " ".join(chance.choices(WORDS, k=chance.randint(1, 20))),
        "width": chance.randint(16, 48) * 2,
        "height": chance.randint(16, 48) * 2,
        "num_frames": chance.randint(1, 9),
        "num_inference_steps": chance.randint(1, 3),
        "seed": chance.randrange(2**53 - 16),
        **chosen,
    }


def enqueued(server: ServerProcess, body: dict[str, Any]) -> str:
    answer = server.http.post("/queue", json={**body, "model": "wan-ai-wan2-1-t2v-1-3b-diffusers"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["generations"][0]["generation_id"])


def test_random_requests_are_made_again_from_their_files(server: ServerProcess, typed: Typed, tmp_path: Path) -> None:
    chance = random.Random(26)
    ids = [enqueued(server, drawn_request(chance)) for _ in range(TEXTS)]

    for number, id_ in enumerate(ids):
        (tmp_path / f"{number}.mp4").write_bytes(server.video(id_))
        done = typed("generate", "--from", f"{number}.mp4", "-o", f"again-{number}.mp4", "--url", server.url)

        assert f"The same bytes as {number}.mp4." in done.stdout, done
        assert (tmp_path / f"again-{number}.mp4").read_bytes() == (tmp_path / f"{number}.mp4").read_bytes()


def test_requests_with_inputs_ask_for_them_by_their_digests(
    server: ServerProcess, typed: Typed, tmp_path: Path
) -> None:
    chance = random.Random(26)
    write_clip(tmp_path / "clip.mp4", 9)
    (tmp_path / "tone.wav").write_bytes(tone())

    for number in range(WITH_INPUTS):
        body = drawn_request(chance) | {"num_inference_steps": 3}
        files = {"input_video": ("--video", "clip.mp4")}
        if number % 2:
            (tmp_path / "image.png").write_bytes(encoded(drawn((chance.randint(32, 96), 64), number)))
            files = {"input_image": ("--image", "image.png")}
            body["image_mode"] = "first_frame"
        else:
            body["strength"] = round(chance.uniform(0.4, 1), 2)
        if number % 3 == 0:
            files["input_audio"] = ("--audio", "tone.wav")
        content = {name: (tmp_path / file).read_bytes() for name, (_, file) in files.items()}
        sent = {name: base64.b64encode(each).decode() for name, each in content.items()}
        first = tmp_path / f"{number}.mp4"
        first.write_bytes(server.video(enqueued(server, body | sent)))
        again = ("generate", "--from", first.name, "-o", f"again-{number}.mp4", "--url", server.url)

        asked = typed(*again)
        done = typed(*again, *(argument for option in files.values() for argument in option))

        digests = read_recipe(first).inputs
        assert digests.keys() == files.keys()
        assert all(digest in asked.stderr for digest in digests.values())
        assert f"The same bytes as {first.name}." in done.stdout, done
        assert (tmp_path / f"again-{number}.mp4").read_bytes() == first.read_bytes()
