"""A video that is heard with a sound of its sender, through every way in which a client can send it."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from paddock import Client
from server.media.limits import AUDIO_BYTES, AUDIO_FORMATS
from tests.support.clips import write_clip
from tests.support.server_process import SMALL, ServerProcess
from tests.support.sound import RATE, loudest_hertz, packets, samples_of, tone
from tests.support.video import read_video

KEYS = ("a-key-of-one", "a-key-of-another")
REQUEST: dict[str, Any] = {**SMALL, "seed": 7, "num_frames": 9}
SECONDS = 9 / 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("sounds") / "data", api_keys=",".join(KEYS))
    process.start()
    process.http.headers["Authorization"] = f"Bearer {KEYS[0]}"
    yield process
    process.close()


@pytest.fixture(scope="module")
def silent(server: ServerProcess) -> bytes:
    return made(server.http.post("/videos/generate", json=REQUEST))


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def made(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return httpx.get(answer.json()["video_url"]).content


def enqueued(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/queue", json={**REQUEST, **body})
    assert answer.status_code == 200, answer.text
    return server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded", "failed")


def on_disk(content: bytes, folder: Path, name: str = "video.mp4") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_every_way_to_send_a_sound_gives_the_same_video(server: ServerProcess, silent: bytes, tmp_path: Path) -> None:
    sound, url = tone(), "/videos/generate"
    fields = {name: str(value) for name, value in REQUEST.items()}
    upload = server.http.post("/uploads", content=sound, headers={"Content-Type": "audio/wav"}).json()
    assert {name: upload.get(name) for name in ("seconds", "width", "warnings")} == {
        "seconds": 3.0,
        "width": None,
        "warnings": [],
    }

    videos = {
        made(answer)
        for answer in (
            server.http.post(url, json={**REQUEST, "input_audio": text(sound)}),
            server.http.post(url, json={**REQUEST, "audio_url": f"data:audio/wav;base64,{text(sound)}"}),
            server.http.post(url, data=fields, files={"input_audio": ("tone.wav", sound)}),
            server.http.post(url, json={**REQUEST, "input_audio": upload["id"]}),
        )
    }

    assert len(videos) == 1
    heard, without = on_disk(videos.pop(), tmp_path), on_disk(silent, tmp_path, "silent.mp4")
    # nothing of the picture has changed
    assert packets(heard) == packets(without)
    assert np.array_equal(read_video(heard), read_video(without))
    assert len(samples_of(without)) == 0
    assert len(samples_of(heard)) == round(SECONDS * RATE)
    assert abs(loudest_hertz(samples_of(heard)) - 440) < 5
    assert [path.suffix for path in (server.data_dir / "inputs").iterdir()] == [".flac"]


def test_the_row_has_a_signed_link_to_the_sound_and_never_its_bytes(server: ServerProcess, tmp_path: Path) -> None:
    row = enqueued(server, input_audio=text(tone()))

    assert row["status"] == "succeeded", row["error_message"]
    assert text(tone())[:40] not in str(row)
    assert (row["has_audio"], row["warnings"]) == (True, [])
    link = httpx.get(row["input_audio"])
    assert link.headers["content-type"] == "audio/flac"
    kept = samples_of(on_disk(link.content, tmp_path, "kept.flac"))
    given = samples_of(on_disk(tone(), tmp_path, "given.wav"))
    # one channel is as loud from both sides
    assert len(kept) == 3 * RATE
    # ffmpeg itself would make it softer by the square root of two
    assert np.abs(kept[:, 0]).max() == pytest.approx(np.sqrt(2) * np.abs(given).max(), rel=0.02)
    assert np.array_equal(kept[:, 0], kept[:, 1])
    assert "has_audio" not in enqueued(server)


@pytest.mark.parametrize("name", ["tone.wav", "tone.mp3", "tone.m4a", "tone.ogg", "tone.opus", "tone.flac", "tone.mp4"])
def test_a_sound_may_have_any_of_these_formats(server: ServerProcess, name: str, tmp_path: Path) -> None:
    row = enqueued(server, input_audio=text(tone(1.0, name)))

    assert row["status"] == "succeeded", row["error_message"]
    heard = samples_of(on_disk(httpx.get(row["result_url"]).content, tmp_path))
    assert abs(loudest_hertz(heard) - 440) < 5


def test_silence_follows_a_sound_that_is_shorter(server: ServerProcess, tmp_path: Path) -> None:
    row = enqueued(server, input_audio=text(tone(0.25)))

    assert row["warnings"] == ["input_audio has 0.2 seconds and the video 0.6: silence follows it."]
    heard = samples_of(on_disk(httpx.get(row["result_url"]).content, tmp_path))
    assert len(heard) == round(SECONDS * RATE)
    assert np.abs(heard[RATE // 2 :]).max() < 1e-3


def test_a_long_sound_is_kept_from_its_beginning(server: ServerProcess) -> None:
    row = enqueued(server, input_audio=text(tone(70.0, "tone.mp3")))

    assert row["status"] == "succeeded", row["error_message"]
    assert row["warnings"] == ["input_audio is longer than 60 seconds: only its first 60 are used."]


def test_what_cannot_be_heard_is_told(server: ServerProcess, tmp_path: Path) -> None:
    picture = write_clip(tmp_path / "clip.mp4", 5).read_bytes()
    wav = tone(0.5)
    for value, expected in (
        ("AAAA", f"input_audio must be {AUDIO_FORMATS}."),
        (5, "input_audio must be a string: a sound in base64, a data URL, a URL or an upload"),
        ("upload:x", "input_audio: there is no such upload"),
        ("http://169.254.169.254/a.mp3", "input_audio"),
        (text(picture), "input_audio has no sound that can be read."),
        (text(b"ID3" + bytes(500)), "input_audio is damaged or not complete, or has a codec that is not read."),
        (text(wav[:44]), "input_audio is damaged or not complete, or has a codec that is not read."),
        (text(b"RIFF" + bytes(AUDIO_BYTES)), "input_audio must have at most 20 MB."),
    ):
        answer = server.http.post("/videos/generate", json={**REQUEST, "input_audio": value})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"].startswith(expected)

    both = server.http.post("/videos/generate", json={**REQUEST, "input_audio": text(wav), "audio_url": text(wav)})
    assert both.json()["error"]["message"] == "input_audio and audio_url are the same parameter: give one of them"


def test_an_upload_is_of_its_kind_and_its_key(server: ServerProcess) -> None:
    sound = server.http.post("/uploads", files={"file": tone(0.5, "tone.m4a")}).json()["id"]

    as_video = server.http.post("/videos/generate", json={**REQUEST, "input_video": sound})
    assert as_video.json()["error"]["message"] == "input_video: the upload is a sound."
    other = httpx.post(
        f"{server.url}/api/ai/videos/generate",
        json={**REQUEST, "input_audio": sound},
        headers={"Authorization": f"Bearer {KEYS[1]}"},
    )
    assert "no such upload" in other.text


def test_a_sound_is_heard_with_all_of_a_continued_video(server: ServerProcess, tmp_path: Path) -> None:
    first = enqueued(server, input_audio=text(tone(1.0)))
    more = {"extend_from": first["generation_id"], "image_mode": "first_frame"}

    silent = enqueued(server, **more)
    heard = enqueued(server, **more, input_audio=text(tone(2.0, hertz=220)))

    assert silent["warnings"] == ["extend_from: the sound of that video is left out. input_audio gives both one."]
    assert "has_audio" not in silent
    path = on_disk(httpx.get(heard["result_url"]).content, tmp_path)
    assert len(read_video(path)) == 17
    assert len(samples_of(path)) == 17 * RATE // 16
    assert abs(loudest_hertz(samples_of(path)) - 220) < 3
    assert packets(path) == packets(on_disk(httpx.get(silent["result_url"]).content, tmp_path, "silent.mp4"))


def test_a_sound_that_is_not_kept_any_more_fails_with_a_sentence(server: ServerProcess) -> None:
    blocked = server.http.post("/queue", json={**SMALL, "num_frames": 81, "num_inference_steps": 12, "width": 416})
    answer = server.http.post("/queue", json={**REQUEST, "input_audio": text(tone(0.7))})
    for path in (server.data_dir / "inputs").iterdir():
        path.unlink()

    row = server.wait_for(answer.json()["generations"][0]["generation_id"], "succeeded", "failed")
    server.http.post(f"/queue/{blocked.json()['generations'][0]['generation_id']}/cancel")

    assert row["status"] == "failed"
    assert row["error_message"].startswith("The sound cannot be read")


def test_client_and_command_line_take_a_path(server: ServerProcess, tmp_path: Path) -> None:
    expected = made(server.http.post("/videos/generate", json={**REQUEST, "input_audio": text(tone())}))
    source, target = on_disk(tone(), tmp_path, "tone.wav"), tmp_path / "new.mp4"
    named = {name: value for name, value in REQUEST.items() if name not in ("prompt", "model")}

    with Client(server.url, api_key=KEYS[0]) as client:
        for value in (source, str(source), tone()):
            generation = client.generate(REQUEST["prompt"], model=REQUEST["model"], input_audio=value, **named)
            assert client.download(generation, target).read_bytes() == expected
            assert generation.has_audio

    size = ("--width", "64", "--height", "64", "--frames", "9", "--seed", "7")
    options = [*size, "--steps", str(REQUEST["num_inference_steps"]), "--audio", str(source)]
    command = [sys.executable, "-P", "-m", "server.cli", "generate", REQUEST["prompt"], *options]
    command += ["--model", REQUEST["model"], "--output", str(tmp_path / "by-command.mp4"), "--url", server.url]
    subprocess.run(command, check=True, env={**os.environ, "PADDOCK_API_KEY": KEYS[0]}, timeout=120)
    assert (tmp_path / "by-command.mp4").read_bytes() == expected


def test_a_killed_server_makes_the_same_video(tmp_path: Path) -> None:
    body = {**REQUEST, "num_inference_steps": 12, "input_audio": text(tone())}
    server = ServerProcess(tmp_path / "data")
    server.start()
    try:
        expected = made(server.http.post("/videos/generate", json=body))
        id_ = server.http.post("/queue", json=body).json()["generations"][0]["generation_id"]
        server.wait_for(id_, "processing")
        server.kill()
        server.start()
        assert server.video(id_) == expected
    finally:
        server.close()


def test_an_mp4_with_nothing_but_a_sound_is_one_whatever_its_brand(server: ServerProcess) -> None:
    # as many recorders write it
    sound = tone(1.0, "tone.mp4", "-c:a", "aac")
    assert sound[8:12] == b"isom"

    upload = server.http.post("/uploads", content=sound, headers={"Content-Type": "audio/mp4"}).json()

    assert upload["seconds"] == pytest.approx(1.0, abs=0.05)
    assert enqueued(server, input_audio=upload["id"])["has_audio"] is True
