"""The container: the image is built from the Dockerfile, and runs as any user with its root read-only."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.container import Container, Image, check_machine
from tests.support.server_process import ENDLESS, ServerProcess, eventually

# the image takes minutes, and the tests share it: one after another, in one process
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2400)]

DATA = Path(__file__).parents[1] / "data"
ANY_USER = "12345:0"
"""A number without a name, in the group root: how OpenShift runs an image."""


@contextmanager
def built() -> Iterator[Image]:
    check_machine()
    # not pytest's folder, which keeps the last three
    folder = Path(tempfile.mkdtemp(prefix="paddock-image-"))
    image = Image(folder)
    try:
        image.build(extras="cluster")
        yield image
    finally:
        image.remove()


@contextmanager
def running(container: Container) -> Iterator[Container]:
    try:
        container.start()
        yield container
    finally:
        container.close()


def test_the_image_is_built_and_serves_as_any_user_with_a_read_only_root(tmp_path: Path) -> None:
    with built() as image:
        (ray,) = image.root.glob("usr/local/lib/python3*/*-packages/ray")
        print(f"the image has {image.size() / 1e9:.2f} GB, of which Ray has {image.size(str(ray)) / 1e9:.2f}")
        # PyTorch's wheel for GPUs adds several GB, and must not come here by chance
        assert image.size() < 3e9
        old_volume_of_the_images_user(image, tmp_path / "first")
        old_volume_of_another_user(image, tmp_path / "second")
        new_volume_of_another_user(image, tmp_path / "third")
        a_cluster_in_a_container(image, tmp_path / "fourth")


def old_volume_of_the_images_user(image: Image, data: Path) -> None:
    """The volume of a container of v0.1.0, whose user is still the image's; and blocks are compiled."""
    shutil.copytree(DATA / "v0.1.0", data)
    run_chown(data, "1000:1000")
    with running(Container(image, data, first_key="false", compile="on")) as container:
        assert container.first.uids().real == 1000
        finish_what_was_left(container)

        def compiled() -> Any:
            (device,) = httpx.get(f"{container.url}/readyz").json()["devices"]
            assert device["compile_error"] is None, container.log_text()
            # the first of many: what the image must have is there, and the rest is other tests' work
            return list(data.glob("cache/compiled/*/inductor/**/*.so"))

        eventually(compiled, container, patience=900)
        doctor = container.execute("paddock", "doctor", "--demo").stdout
        assert "compilation: g++ and Python's headers are there." in doctor
        # the kernel for attention in fp8 is installed; without a GPU it cannot run
        assert container.execute("python", "-c", "import cudnn; cudnn.pygraph").returncode == 0

        assert container.stop() == 0, container.log_text()


def old_volume_of_another_user(image: Image, data: Path) -> None:
    """The volume of a container of v0.2.0, given to the group root as docs/container.md says."""
    shutil.copytree(DATA / "v0.2.0", data)
    run_chown(data, "1000:1000")
    subprocess.run(["chgrp", "-R", "0", data], check=True)
    subprocess.run(["chmod", "-R", "g=u", data], check=True)
    with running(Container(image, data, ANY_USER, first_key="false")) as container:
        assert container.first.uids().real == 12345
        finish_what_was_left(container)

        assert container.stop() == 0, container.log_text()


def new_volume_of_another_user(image: Image, data: Path) -> None:
    """An empty volume, which an engine fills with what the image has there."""
    data.mkdir()
    shutil.copystat(image.root / "data", data)
    made = (image.root / "data").stat()
    os.chown(data, made.st_uid, made.st_gid)
    with running(Container(image, data, ANY_USER)) as container:
        assert container.execute("touch", "/opt/paddock/file").returncode == 1
        # the first start makes a key, since a container's port may be open to others
        (key,) = re.findall(r"shown only now: (\S+)", container.log_text())
        assert container.http.get("/queue").status_code == 401
        ours = container.with_key(key)
        assert ours.video(ours.enqueue())[4:8] == b"ftyp"

        check = image.config["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        # a proxy is not asked for the container's own port
        assert container.execute(*check[1:], http_proxy="http://127.0.0.1:9").returncode == 0
        assert container.execute(*check[1:], PADDOCK_PORT="9").returncode != 0

        generation = ours.enqueue(**{**ENDLESS, "prompt": "interrupted"})
        ours.wait_for(generation, "processing")
        assert container.stop() == 0, container.log_text()
    # it goes on when the container is started again
    with running(container):
        ours.wait_for(generation, "processing")
        assert container.stop() == 0, container.log_text()
    ours.http.close()


CLUSTER = """
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
paddock cluster head --demo-devices 1 --name one --ip 127.0.0.1 > head.log 2>&1 &
HEAD=$!
until grep -q "The head runs at" head.log; do sleep 0.2; kill -0 $HEAD; done
paddock serve --demo > server.log 2>&1 &
SERVER=$!
until grep -q "one/0 has joined" server.log; do sleep 0.2; kill -0 $SERVER; done
paddock generate "a red circle" --width 64 --height 64 --frames 5 --steps 2 -o video.mp4
kill -TERM $SERVER; wait $SERVER || true
kill -TERM $HEAD; wait $HEAD
"""


def a_cluster_in_a_container(image: Image, data: Path) -> None:
    """Ray runs as a user without a name, with nothing to write to but /data and /tmp."""
    data.mkdir()
    run_chown(data, ANY_USER)
    container = Container(image, data, ANY_USER, ray_address="127.0.0.1:6379", first_key="false")
    ran = container.run_alone(CLUSTER, PADDOCK_PORT="8000")
    logs = {path.name: path.read_text() for path in data.glob("*.log")}
    assert ran.returncode == 0, (ran.stderr, logs)
    assert (data / "video.mp4").read_bytes()[4:8] == b"ftyp"


def finish_what_was_left(container: ServerProcess) -> None:
    """Serve the video that the older version made, and make those that it was asked for."""
    rows = container.http.get("/generations").json()["generations"]
    by_prompt = {row["prompt"]: row for row in rows}
    assert httpx.get(by_prompt["finished"]["result_url"]).content[4:8] == b"ftyp"
    for prompt in ("interrupted", "waiting"):
        container.wait_for(by_prompt[prompt]["generation_id"], "succeeded", timeout=600)
        assert container.video(by_prompt[prompt]["generation_id"])[4:8] == b"ftyp"


def run_chown(folder: Path, owner: str) -> None:
    subprocess.run(["chown", "-R", owner, folder], check=True)
