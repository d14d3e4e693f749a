"""The recipe in the file of a video: the same by every route, nobody's secret, and enough to make the video again."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from pipelines.stages.writing.tagging import tag
from server import __version__
from server.recipe.container import read_comment, read_recipe
from tests.contract.test_image_input import drawn, encoded
from tests.support.clips import write_clip
from tests.support.command_line import Typed
from tests.support.server_process import SMALL, ServerProcess
from tests.support.sound import tone
from tests.support.video import packets

SEEDED: dict[str, Any] = {**SMALL, "seed": 7}
SIZE = ("--width", "64", "--height", "64", "--frames", "5", "--steps", "2", "--seed", "7")
MUXING = ("-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4")


def newest_of(server: ServerProcess) -> str:
    rows = server.http.get("/generations", params={"page_size": 1}).json()["generations"]
    return str(rows[0]["generation_id"])


def made(server: ServerProcess, path: Path, **body: Any) -> Path:
    path.write_bytes(server.video(server.enqueue(**{"seed": 7, **body})))
    return path


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a video with another comment: what `change` returns or makes of its recipe."""
    content = json.loads(read_comment(source))
    returned = change(content)
    tag(source, returned if isinstance(returned, str) else json.dumps(content), target, MUXING)
    return target


def test_a_request_gives_the_same_file_by_every_route(server: ServerProcess, typed: Typed, tmp_path: Path) -> None:
    queued = made(server, tmp_path / "queued.mp4").read_bytes()
    answer = server.http.post("/videos/generate", json={**SEEDED, "target_repo": "a-repo", "response_format": "url"})
    inline = server.http.post("/videos/generate", json={**SEEDED, "response_format": "b64_json"}).json()
    fields = {name: str(value) for name, value in SEEDED.items()}
    form = server.http.post("/videos/generate", data=fields, files={"unused": ("", b"")})
    several = server.http.post("/queue", json={**SEEDED, "seed": 6, "num_generations": 2}).json()["generations"]
    typed("generate", SMALL["prompt"], *SIZE, "-o", "typed.mp4", "--url", server.url)

    assert httpx.get(answer.json()["video_url"]).content == queued
    assert base64.b64decode(re.sub("^data:[^,]*,", "", _b64_of(inline))) == queued
    assert form.status_code != 200 or httpx.get(form.json()["video_url"]).content == queued
    assert server.video(several[1]["generation_id"]) == queued
    assert (tmp_path / "typed.mp4").read_bytes() == queued


def _b64_of(answer: Any) -> str:
    """The only long text in an answer."""
    if isinstance(answer, str):
        return answer
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else []
    return max((_b64_of(part) for part in parts), key=len, default="")


def test_a_recipe_says_what_was_made_and_nothing_about_who_asked(
    server: ServerProcess, typed: Typed, tmp_path: Path
) -> None:
    secrets = {"target_namespace": "a-namespace", "target_repo": "a-repo", "target_directory": "a-directory"}
    id_ = server.enqueue(prompt="an ox [b]; = #\n水", seed=7, **secrets)
    (tmp_path / "ox.mp4").write_bytes(server.video(id_))

    shown = typed("recipe", "ox.mp4")

    content = json.loads(shown.stdout)
    text = read_comment(tmp_path / "ox.mp4").decode()
    assert content == json.loads(text)
    assert (content["version"], content["recipe"]) == (__version__, 1)
    assert content["parameters"] == {
        "prompt": "an ox [b]; = #\n水",
        "negative_prompt": " ",
        **{name: SMALL[name] for name in ("width", "height", "num_frames", "num_inference_steps")},
        "guidance_scale": 5.0,
        "seed": 7,
        "sampler": "unipc",
        "step_cache": "exact",
    }
    assert {"device", "torch", "diffusers", "weights"} <= content["fingerprint"].keys()
    row = server.row(id_)
    for secret in (*secrets.values(), id_, str(server.data_dir), str(server.port), str(row["enqueued_at"]), "/work"):
        assert secret not in text, secret
    # the demo's weights are not those of the model's repository
    assert "repo" not in content


def test_what_only_the_recipe_tells_apart_has_the_same_packets(
    server: ServerProcess, start_server: Callable[..., ServerProcess], typed: Typed, tmp_path: Path
) -> None:
    full = made(server, tmp_path / "full.mp4")
    other = made(server, tmp_path / "other.mp4", sampler="unipc")
    private = start_server(recipe="without-prompts", name="private")
    less = made(private, tmp_path / "less.mp4")
    none = made(start_server(recipe="off", name="off"), tmp_path / "none.mp4")

    # the sampler that the model has anyway
    assert full.read_bytes() == other.read_bytes()
    assert len({path.read_bytes() for path in (full, less, none)}) == 3
    assert len({packets(path) for path in (full, less, none)}) == 1
    assert SMALL["prompt"].encode() not in less.read_bytes() + none.read_bytes()
    assert not read_recipe(less).has_prompts
    assert "none.mp4 cannot be used: it has no recipe." in typed("recipe", "none.mp4").stderr
    # the prompt has to be given again
    again = ("generate", "--from", "less.mp4", "-o", "again.mp4", "--url", private.url)
    assert "leaves its prompts out: give the prompt as well." in typed(*again).stderr
    said = typed(*again, SMALL["prompt"]).stdout
    assert "The same bytes as less.mp4." in said


def test_a_video_is_made_again_from_its_file_alone(server: ServerProcess, typed: Typed, tmp_path: Path) -> None:
    first = made(server, tmp_path / "first.mp4", negative_prompt="rain", guidance_scale=2.5, sampler="euler")

    done = typed("generate", "--from", "first.mp4", "-o", "second.mp4", "--url", server.url)

    assert "The same bytes as first.mp4." in done.stdout
    assert (tmp_path / "second.mp4").read_bytes() == first.read_bytes()
    refused = typed("generate", "--from", "first.mp4", "--seed", "8", "--url", server.url)
    assert (refused.returncode, refused.stderr.strip()) == (
        2,
        "--from makes a video again as it was: leave out --seed.",
    )
    assert "first.mp4 has its prompts" in typed("generate", "ox", "--from", "first.mp4", "--url", server.url).stderr


def test_what_differs_on_another_machine_is_told_by_its_names(
    server: ServerProcess, typed: Typed, tmp_path: Path
) -> None:
    def elsewhere(recipe: dict[str, Any]) -> None:
        recipe["version"] = "0.1.9"
        recipe["fingerprint"] |= {"device": "NVIDIA H200", "torch": "2.9.9"}

    changed(made(server, tmp_path / "here.mp4"), tmp_path / "there.mp4", elsewhere)

    done = typed("generate", "--from", "there.mp4", "-o", "again.mp4", "--url", server.url)

    assert done.returncode == 0
    torch = read_recipe(tmp_path / "here.mp4").fingerprint["torch"]
    assert (
        f"Not the same bytes as there.mp4. What differs: Paddock (0.1.9 there, {__version__} here), "
        f"device (NVIDIA H200 there, cpu here), torch (2.9.9 there, {torch} here)." in done.stdout
    )
    assert packets(tmp_path / "again.mp4") == packets(tmp_path / "there.mp4")


def test_inputs_are_asked_for_by_their_digests_and_checked(server: ServerProcess, typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(encoded(drawn(seed=1)))
    (tmp_path / "other.png").write_bytes(encoded(drawn(seed=2)))
    (tmp_path / "tone.wav").write_bytes(tone())
    image, sound = (base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("image.png", "tone.wav"))
    first = made(server, tmp_path / "first.mp4", input_image=image, image_mode="first_frame", input_audio=sound)
    again = ("generate", "--from", "first.mp4", "-o", "again.mp4", "--url", server.url)
    digests = read_recipe(first).inputs

    missing = typed(*again, "--audio", "tone.wav")
    wrong = typed(*again, "--audio", "tone.wav", "--image", "other.png")
    extra = typed(*again, "--audio", "tone.wav", "--image", "image.png", "--video", "first.mp4")
    no_image = typed(*again, "--audio", "tone.wav", "--image", "tone.wav")
    done = typed(*again, "--audio", "tone.wav", "--image", "image.png")

    assert digests.keys() == {"input_image", "input_audio"}
    assert f"give --image FILE with the digest {digests['input_image']}." in missing.stderr
    assert "--image other.png is not what first.mp4 was made with: its digest is" in wrong.stderr
    assert "was made without --video FILE: leave it out." in extra.stderr
    assert "--image tone.wav must be a JPEG, PNG" in no_image.stderr
    assert [each.returncode for each in (missing, wrong, extra, no_image, done)] == [1, 1, 1, 1, 0]
    assert "The same bytes as first.mp4." in done.stdout
    assert (tmp_path / "again.mp4").read_bytes() == first.read_bytes()


def test_hostile_files_give_one_sentence_and_no_request(server: ServerProcess, typed: Typed, tmp_path: Path) -> None:
    first = made(server, tmp_path / "first.mp4")
    newest = newest_of(server)

    def named(name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        changed(first, tmp_path / name, change)

    named("path.mp4", lambda recipe: recipe.update(inputs={"input_image": "/etc/passwd"}))
    named("url.mp4", lambda recipe: recipe["parameters"].update(input_image="http://127.0.0.1:1/image.png"))
    named("hook.mp4", lambda recipe: recipe.update(webhook_url="http://127.0.0.1:1"))
    named("type.mp4", lambda recipe: recipe["parameters"].update(seed="7"))
    named("deep.mp4", lambda _: '{"recipe":' + "[" * 100_000)
    named("large.mp4", lambda recipe: recipe["parameters"].update(prompt="x" * 2**18))
    named("later.mp4", lambda recipe: recipe.update(recipe=2))
    (tmp_path / "cut.mp4").write_bytes(first.read_bytes()[:500])
    (tmp_path / "video.webm").write_bytes(b"\x1aE\xdf\xa3" + bytes(100))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    write_clip(tmp_path / "plain.mp4", 5)
    sentences = {
        "path.mp4": "the field 'inputs.input_image' of its recipe is not valid",
        "url.mp4": "the field 'parameters.input_image' of its recipe is no field of a recipe",
        "hook.mp4": "the field 'webhook_url' of its recipe is no field of a recipe",
        "type.mp4": "the field 'parameters.seed' of its recipe is not valid",
        "deep.mp4": "its comment is not a recipe of Paddock",
        "large.mp4": "its recipe has more than 256 KiB",
        "later.mp4": "its comment is not a recipe of format 1",
        "cut.mp4": "it is damaged or not complete",
        "video.webm": "it is not an MP4 file",
        "empty.mp4": "it is not an MP4 file",
        "folder.mp4": "it is not a file",
        "plain.mp4": "it has no recipe",
        "missing.mp4": "there is no such file",
    }

    for name, sentence in sentences.items():
        for ended in (typed("recipe", name), typed("generate", "--from", name, "--url", server.url)):
            assert (ended.returncode, ended.stdout) == (1, ""), name
            assert ended.stderr.startswith(f"{name} cannot be used: {sentence}"), ended.stderr
            assert ended.stderr.count("\n") == 1
    assert newest_of(server) == newest
