"""A video that begins with an image, through every way in which a client can send it."""

import base64
import io
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from paddock import Client, InvalidArgumentError
from pipelines.models.catalogue import DEFAULT_MODEL
from pipelines.stages.conditioning.images import image_digest
from server.service.requests.inputs import INPUTS, LAST_IMAGES
from tests.support.command_line import Typed
from tests.support.models.serving import TI2V as MODEL
from tests.support.models.serving import ti2v_models, ti2v_server
from tests.support.server_process import SMALL, ServerProcess, eventually
from tests.support.video import read_video

NEED = (
    "wan-ai-wan2-1-i2v-14b-480p-diffusers",
    "wan-ai-wan2-1-i2v-14b-720p-diffusers",
    "wan-ai-wan2-1-flf2v-14b-720p-diffusers",
    "wan-ai-wan2-2-i2v-a14b-diffusers",
)
"""The models that need an image."""

TEXT = "wan-ai-wan2-1-t2v-1-3b-diffusers"
REQUEST: dict[str, Any] = {**SMALL, "model": MODEL, "seed": 7}
KEYS = ("a-key-of-one", "a-key-of-another")


def drawn(size: tuple[int, int] = (64, 64), seed: int = 0) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def in_base64(image: Image.Image) -> str:
    return base64.b64encode(encoded(image)).decode()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ti2v_models(tmp_path_factory.mktemp("5b"))


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ti2v_server(tmp_path_factory.mktemp("images") / "data", models, api_keys=",".join(KEYS))
    process.start()
    process.http.headers["Authorization"] = f"Bearer {KEYS[0]}"
    yield process
    process.close()


def images_of(server: ServerProcess) -> list[Path]:
    return sorted((server.data_dir / "inputs").iterdir())


def kept_times(server: ServerProcess, image: Image.Image) -> int:
    """How many files hold this image. Other tests of the module may have brought theirs before."""
    return sum(image_digest(image) in path.name for path in images_of(server))


def newest(server: ServerProcess) -> dict[str, Any]:
    return dict(server.http.get("/generations", params={"page_size": 1}).json()["generations"][0])


def made(server: ServerProcess, answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return httpx.get(answer.json()["video_url"]).content


def test_every_way_to_send_an_image_gives_the_same_video(server: ServerProcess) -> None:
    image = drawn(seed=11)
    content, text = encoded(image), in_base64(image)
    fields = {name: str(value) for name, value in REQUEST.items()}

    videos = {
        made(server, answer)
        for answer in (
            server.http.post("/videos/generate", json={**REQUEST, "input_image": text}),
            server.http.post("/videos/generate", json={**REQUEST, "input_image": f"data:image/png;base64,{text}"}),
            server.http.post("/videos/generate", data=fields, files={"input_image": ("ox.png", content)}),
            server.http.post("/videos/generate", data=fields, files={"input_image": (None, text)}),
            # another file with the same pixels
            server.http.post("/videos/generate", data=fields, files={"input_image": ("ox", encoded(image, "BMP"))}),
        )
    }

    assert len(videos) == 1
    assert made(server, server.http.post("/videos/generate", json=REQUEST)) not in videos
    assert kept_times(server, image) == 1


def test_the_row_has_a_signed_link_to_the_image_and_never_its_bytes(server: ServerProcess) -> None:
    image = drawn((80, 60), seed=1)
    text = in_base64(image)
    answer = server.http.post("/queue", json={**REQUEST, "input_image": text})
    assert answer.status_code == 200
    (created,) = answer.json()["generations"]

    row = server.wait_for(created["generation_id"], "succeeded", "failed")

    assert row["status"] == "succeeded"
    assert text[:40] not in str(row)
    link = httpx.get(row["input_image"])
    assert link.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(link.content)) as shown:
        assert image_digest(shown.convert("RGB")) == image_digest(image)
    assert httpx.head(row["input_image"]).status_code == 200
    assert httpx.get(row["input_image"].replace("/inputs/", "/inputs/x")).status_code == 404
    # a link to an image is none to a video
    assert httpx.get(row["input_image"].replace("/inputs/", "/").replace(".png", ".mp4")).status_code == 404


def test_the_image_is_upright_flat_and_said_to_be_changed(server: ServerProcess) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = drawn((40, 60), seed=2).convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    content = encoded(image, "PNG", exif=exif)

    fields = {name: str(value) for name, value in REQUEST.items()}
    answer = server.http.post("/queue", data=fields, files={"input_image": content})

    assert answer.headers["Paddock-Warnings"] == "input_image has transparent parts, which are shown on white."
    row = newest(server)
    with Image.open(io.BytesIO(httpx.get(row["input_image"]).content)) as shown:
        assert shown.size == (60, 40)
        assert shown.mode == "RGB"


def test_without_a_size_the_video_has_the_ratio_of_the_image(server: ServerProcess) -> None:
    small = {"model": MODEL, "prompt": "an ox", "num_frames": 5, "num_inference_steps": 1, "width": 60}
    cases = {(60, 30): (60, 30), (30, 60): (60, 120), (4000, 1): (60, 16)}
    for size, expected in cases.items():
        answer = server.http.post("/videos/generate", json={**small, "input_image": in_base64(drawn(size))})
        frames = read_video(made(server, answer))
        assert frames.shape[1:3] == (expected[1], expected[0])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("no image!", "input_image must be a JPEG, PNG, WebP, BMP or GIF file."),
        ("", "input_image must be a JPEG, PNG, WebP, BMP or GIF file."),
        (7, "input_image must be a string: an image in base64, a data URL, a URL or an upload"),
        ({"url": "x"}, "input_image must be a string: an image in base64, a data URL, a URL or an upload"),
        ("sha256:" + "0" * 64, "input_image must be a JPEG, PNG, WebP, BMP or GIF file."),
    ],
)
def test_what_is_no_image_is_refused_on_both_routes(value: Any, sentence: str, server: ServerProcess) -> None:
    refused = server.http.post("/videos/generate", json={**REQUEST, "input_image": value})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == sentence

    assert server.http.post("/queue", json={**REQUEST, "input_image": value}).status_code == 200
    row = newest(server)
    assert (row["status"], row["error_message"]) == ("failed", sentence)
    assert "input_image" not in row


def test_null_and_an_empty_field_for_a_file_are_no_image(server: ServerProcess) -> None:
    fields = {name: str(value) for name, value in REQUEST.items()}
    parts = [
        ("input_image", ("", b"", "application/octet-stream")),
        *((name, (None, value)) for name, value in fields.items()),
    ]

    none = made(server, server.http.post("/videos/generate", json={**REQUEST, "input_image": None}))
    assert made(server, server.http.post("/videos/generate", files=parts)) == none
    assert "input_image" not in newest(server)


def test_other_faults_of_a_request_are_told_first(server: ServerProcess) -> None:
    body = {**REQUEST, "input_image": in_base64(drawn(seed=3)), "num_frames": 1000}
    before = len(images_of(server))

    assert "num_frames" in server.http.post("/videos/generate", json=body).json()["error"]["message"]
    assert len(images_of(server)) == before


def test_a_model_without_images_refuses_one(server: ServerProcess) -> None:
    for name, model in (("input_image", TEXT), *((last, TEXT) for last in LAST_IMAGES), (LAST_IMAGES[0], MODEL)):
        body = {**REQUEST, "model": model, name: in_base64(drawn())}

        refused = server.http.post("/videos/generate", json=body)

        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == f"{name} is not supported by {model}"


@pytest.mark.parametrize("model", NEED)
def test_a_model_that_needs_an_image_says_so_on_both_routes(model: str, server: ServerProcess) -> None:
    refused = server.http.post("/videos/generate", json={**REQUEST, "model": model})
    queued = server.http.post("/queue", json={**REQUEST, "model": model})

    sentence = f"input_image is required: {model} makes videos that begin with an image"
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == sentence
    assert queued.status_code == 200
    row = newest(server)
    assert (row["status"], row["error_message"]) == ("failed", sentence)


def test_models_say_whether_they_take_an_image(server: ServerProcess) -> None:
    found = {model["id"]: model for model in server.http.get("/models").json()["data"]}

    def takes(name: str) -> set[str]:
        return {id_ for id_, model in found.items() if name in model["x-paddock-parameters"]}

    assert {id_ for id_, model in found.items() if "image" in model["capabilities"]["input"]} == {MODEL, *NEED}
    # of the others some let another model answer
    assert takes("input_image") == {MODEL, *NEED, DEFAULT_MODEL, "wan-ai-wan2-2-t2v-a14b-diffusers"}
    ends = {"wan-ai-wan2-1-flf2v-14b-720p-diffusers", "wan-ai-wan2-2-i2v-a14b-diffusers"}
    assert all(takes(name) == ends for name in LAST_IMAGES)
    assert all("input_image" not in model["request_schema"]["properties"] for model in found.values())


def noise(side: int) -> Image.Image:
    """An image that no format makes smaller."""
    return Image.frombytes("RGB", (side, side), os.urandom(3 * side * side))


def test_large_images_are_taken_beside_the_limit_of_other_bodies(server: ServerProcess) -> None:
    text = in_base64(noise(1200))
    assert len(text) > 5_000_000

    made(server, server.http.post("/videos/generate", json={"input_image": text, **REQUEST}))
    for name in ("prompt", "input_image"):
        too_large = {**REQUEST, name: "x" * (2_000_000 if name == "prompt" else 30_000_000)}
        refused = server.http.post("/videos/generate", json=too_large)
        assert refused.status_code == 413
        assert "at most" in refused.json()["error"]["message"]
    for content, status in ((b"[" * 2_000_000, 413), (b"{" * 2_000_000, 400)):
        headers = {"content-type": "application/json"}
        assert server.http.post("/videos/generate", content=content, headers=headers).status_code == status
    refused = server.http.post("/videos/generate", json={**REQUEST, "input_image": in_base64(noise(2700))})
    assert refused.json()["error"]["message"] == "input_image must have at most 20 MB."


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"guidance_scale": "NaN"}, "guidance_scale must be a number between 0 and 10"),
        ({"guidance_scale": "1e999"}, "guidance_scale must be a number between 0 and 10"),
        ({"num_frames": "9" * 4000}, "num_frames must be an integer between 1 and 120"),
        ({"num_frames": "[" * 4000}, "num_frames must be an integer between 1 and 120"),
        ({"loras": "[1,"}, "loras must be a list in JSON."),
        ({"loras": "[" * 100_000}, "loras must be a list in JSON."),
        ({"run_fast": "yes"}, "input_image is"),
    ],
)
def test_fields_are_numbers_where_they_look_like_it(fields: Any, sentence: str, server: ServerProcess) -> None:
    data = {name: str(value) for name, value in REQUEST.items()} | fields
    answer = server.http.post("/videos/generate", data=data, files={"input_image": encoded(drawn())})

    if "run_fast" in fields:
        # no parameter of this model
        assert answer.status_code == 200
    else:
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == sentence


def test_fields_together_have_the_limit_of_other_bodies(server: ServerProcess) -> None:
    lists = {f"x{number}": "[[]," * 25_000 + "[]" for number in range(60)}

    answer = server.http.post("/videos/generate", data=lists, files={"input_image": encoded(drawn())})

    assert answer.status_code == 413
    assert "at most 1000000 bytes in all" in answer.json()["error"]["message"]


def test_a_multipart_body_without_its_end_is_refused(server: ServerProcess) -> None:
    request = server.http.build_request(
        "POST",
        "/videos/generate",
        data={name: str(value) for name, value in REQUEST.items()},
        files={"input_image": encoded(drawn())},
    )
    whole = request.read()
    headers = {"content-type": request.headers["content-type"]}

    for cut in (40, 200):
        answer = server.http.post("/videos/generate", content=whole[:-cut], headers=headers)
        assert answer.status_code == 400
        assert "its last boundary is missing" in answer.json()["error"]["message"]


def test_a_body_that_does_not_come_keeps_no_others_from_being_read(server: ServerProcess) -> None:
    head = (
        f"POST /api/ai/queue HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS[0]}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9999999\r\n\r\n--x\r\n"
    )
    with ExitStack() as stack:
        for _ in range(6):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            silent.sendall(head.encode())
        fields = {name: str(value) for name, value in REQUEST.items()}
        for content in (encoded(drawn()), encoded(noise(900))):
            made(server, server.http.post("/videos/generate", data=fields, files={"input_image": content}))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"prompt": ("a.txt", b"an ox")},
            "'prompt' must not be a file; input_image, end_image_url, ",
        ),
        ([("input_image", b"a"), ("input_image", b"b")], "input_image is in the multipart body twice."),
        ([("input_image", b"a")] * (len(INPUTS) + 1), "The multipart body cannot be read: Too many files"),
    ],
)
def test_a_multipart_body_has_its_limits(files: Any, sentence: str, server: ServerProcess) -> None:
    refused = server.http.post("/videos/generate", data={"model": MODEL}, files=files)

    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(sentence)


def test_a_multipart_body_that_is_none_is_refused(server: ServerProcess) -> None:
    for media_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = server.http.post("/queue", content=b"no parts", headers={"content-type": media_type})
        assert answer.status_code == 400, answer.text


def test_images_are_kept_for_each_key_on_its_own(server: ServerProcess) -> None:
    body = {**REQUEST, "input_image": in_base64(drawn(seed=5))}
    before = len(images_of(server))

    with closing(server.with_key(KEYS[1]).http) as other:
        for http in (server.http, other):
            assert http.post("/videos/generate", json=body).status_code == 200

    assert len(images_of(server)) == before + 2


def test_a_request_is_the_same_only_with_the_same_image(server: ServerProcess) -> None:
    headers = {"Idempotency-Key": "with an image"}
    bodies = [{**REQUEST, "input_image": in_base64(drawn(seed=seed))} for seed in (6, 6, 7)]

    first, again, other = (server.http.post("/queue", json=body, headers=headers) for body in bodies)

    assert first.json() == again.json()
    assert other.status_code == 409


def test_several_videos_share_one_image(server: ServerProcess) -> None:
    body = {**REQUEST, "input_image": in_base64(drawn(seed=8)), "num_generations": 3}
    before = len(images_of(server))

    answer = server.http.post("/videos/generate", json=body)

    videos = [httpx.get(video["url"]).content for video in answer.json()["videos"]]
    assert len(set(videos)) == 3
    assert len(images_of(server)) == before + 1


def test_a_killed_generation_goes_on_with_its_image_to_the_same_bytes(models: Path, tmp_path: Path) -> None:
    server = ti2v_server(tmp_path / "data", models, checkpoint_interval="0.01")
    server.start()
    try:
        body = {**REQUEST, "input_image": in_base64(drawn(seed=9)), "num_inference_steps": 40, "num_frames": 17}
        whole = made(server, server.http.post("/videos/generate", json=body))
        (created,) = server.http.post("/queue", json=body).json()["generations"]
        id_ = created["generation_id"]
        eventually(lambda: [*(server.data_dir / "checkpoints").glob(f"{id_}*")], server)
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        server.start()

        row = server.wait_for(id_, "succeeded", "failed")

        assert row["status"] == "succeeded", row
        assert httpx.get(row["result_url"]).content == whole
        # a folder that is gone is nobody's fault but the server's
        shutil.rmtree(server.data_dir / "inputs")
        answer = server.http.post("/videos/generate", json=body)
        assert answer.status_code == 503, answer.text
        assert "Retry-After" in answer.headers
    finally:
        server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ox.jpg"
    path.write_bytes(encoded(drawn(seed=10), "JPEG"))
    return path


def test_the_python_client_takes_a_path_or_the_content(server: ServerProcess, file: Path) -> None:
    small = {name: value for name, value in REQUEST.items() if name != "prompt"}
    data_url = f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
    with Client(server.url, KEYS[0]) as client:
        for given in (file, str(file), file.read_bytes(), data_url):
            generation = client.generate("an ox", input_image=given, **small)
            assert httpx.get(generation.parameters["input_image"]).status_code == 200
        with pytest.raises(InvalidArgumentError, match=r"input_image: nothing\.png cannot be read: No such file"):
            client.enqueue("an ox", input_image="nothing.png", **small)
        with pytest.raises(InvalidArgumentError, match="input_image must have at most 20 MB"):
            client.enqueue("an ox", input_image=bytes(20 * 2**20 + 1), **small)


def test_the_command_line_takes_a_file(server: ServerProcess, file: Path, typed: Typed) -> None:
    command = ["generate", "an ox", "--model", MODEL, "--image", str(file), "--url", server.url, "--api-key", KEYS[0]]
    size = ["--width", "64", "--height", "64", "--frames", "5", "--steps", "2", "--output", str(file.parent / "ox.mp4")]

    ended = typed(*command, *size)

    assert ended.returncode == 0, ended.stderr
    assert "input_image" in newest(server)
    ended = typed(*command[:5], str(file.parent / "none.png"), *command[6:])
    assert ended.returncode == 2
    assert "none.png cannot be read: No such file" in ended.stderr
