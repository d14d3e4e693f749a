"""The `openai` packages of PyPI and npm make, fetch, list, remix and delete videos of a real server."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from pipelines.models.catalogue import DEFAULT_MODEL
from tests.e2e.test_generated_clients import install, run
from tests.support.server_process import ServerProcess, needs
from tests.support.video import read_video

# the package says of its methods for videos that OpenAI's own service ends
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")

OURS = Path(__file__).parent / "openai_package"
SMALL = {"num_inference_steps": 2, "num_frames": 5, "seed": 7}
QUICK = 100
"""Milliseconds between two looks."""


@pytest.fixture
def client(tenant: ServerProcess, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tenant.url}/v1", api_key=key, max_retries=0) as found:
        yield found


def test_the_python_package(tenant: ServerProcess, client: openai.OpenAI, tmp_path: Path) -> None:
    made = client.videos.create_and_poll(
        prompt="An ox by a lake",
        size="64x64",
        extra_body=SMALL,
        poll_interval_ms=QUICK,  # type: ignore[arg-type]
    )

    assert (made.status, made.progress, made.model, made.seconds) == ("completed", 100, DEFAULT_MODEL, "0.312")
    whole = client.videos.download_content(made.id)
    assert read_video(whole.content).shape == (5, 64, 64, 3)
    whole.write_to_file(tmp_path / "whole.mp4")
    with client.videos.with_streaming_response.download_content(made.id) as stream:
        stream.stream_to_file(tmp_path / "streamed.mp4")
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "streamed.mp4").read_bytes() == tenant.video(made.id)
    sheet = client.videos.download_content(made.id, variant="spritesheet")
    assert sheet.content.startswith(b"RIFF")

    remix = client.videos.poll(client.videos.remix(made.id, prompt="A goat").id, poll_interval_ms=QUICK)
    assert (remix.prompt, remix.remixed_from_video_id, remix.size) == ("A goat", made.id, "64x64")
    edit = client.videos.edit(prompt="In winter", video=tmp_path / "whole.mp4", extra_body={**SMALL, "size": "64x64"})
    assert client.videos.poll(edit.id, poll_interval_ms=QUICK).status == "completed"
    of_video = {"prompt": "On", "video": {"id": made.id}, "seconds": "0.5", "image_mode": "first_frame"}
    longer = client.post("/videos/extensions", body=of_video, cast_to=openai.types.Video)
    assert client.videos.poll(longer.id, poll_interval_ms=QUICK).seconds == "0.75"

    # the package asks for page after page
    ids = [made.id, remix.id, edit.id, longer.id]
    assert [video.id for video in client.videos.list(limit=2, order="asc")] == ids
    assert [video.id for video in client.videos.list(limit=3)] == ids[::-1]
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)
    assert DEFAULT_MODEL in [model.id for model in client.models.list()]


def test_the_errors_of_the_python_package(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"the nearest is 7\.5") as refused:
        client.videos.create(prompt="An ox", seconds="12")
    assert (refused.value.param, refused.value.type) == ("seconds", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.videos.create(prompt="An ox", model="sora-2")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.AuthenticationError) as wrong:
        client.with_options(api_key="wrong").models.list()
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as no_image:
        client.videos.create(prompt="An ox", input_reference=("ox.png", b"no image"))
    assert no_image.value.param == "input_reference"


async def test_the_asynchronous_client_of_the_python_package(tenant: ServerProcess, key: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{tenant.url}/v1", api_key=key, max_retries=0) as client:

        async def make(prompt: str) -> openai.types.Video:
            body = {**SMALL, "width": 64, "height": 64}
            return await client.videos.create_and_poll(prompt=prompt, extra_body=body, poll_interval_ms=QUICK)

        made = await asyncio.gather(make("An ox"), make("A goat"))
        assert [video.status for video in made] == ["completed", "completed"]
        assert {video.id async for video in client.videos.list(limit=1)} == {video.id for video in made}


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_the_package_of_npm(tenant: ServerProcess, key: str, tmp_path: Path) -> None:
    node = needs("node")
    for name in ("package.json", "main.js"):
        shutil.copy(OURS / name, tmp_path)
    options = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    install([needs("npm"), "install", *options], tmp_path)

    said = json.loads(run(node, "main.js", f"{tenant.url}/v1", key, "ox.mp4", cwd=tmp_path))

    made = [said[name]["id"] for name in ("first", "remix", "edit", "extension")]
    assert {said[name]["status"] for name in ("first", "remix", "edit", "extension")} == {"completed"}
    assert (tmp_path / "ox.mp4").read_bytes() == tenant.video(made[0])
    assert said["thumbnail"] == "image/webp"
    assert said["remix"]["remixed_from_video_id"] == made[0]
    assert said["extension"]["seconds"] == "0.562"
    assert said["listed"] == made
    assert DEFAULT_MODEL in said["models"]
    assert said["deleted"] == {"id": made[2], "object": "video.deleted", "deleted": True}
    assert [(error["name"], error["status"], error["param"], error["code"]) for error in said["errors"]] == [
        ("BadRequestError", 400, "seconds", "invalid_params"),
        ("NotFoundError", 404, "model", "model_not_found"),
        ("AuthenticationError", 401, None, "invalid_api_key"),
        ("NotFoundError", 404, None, "not_found"),
    ]
