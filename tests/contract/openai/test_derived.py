"""What is made of a video by OpenAI's routes: remixes, extensions and edits."""

from typing import Any

import pytest

from tests.contract.openai.test_videos import UNKNOWN
from tests.support.openai import SMALL, V1, openai_error
from tests.support.server_process import ENDLESS, ServerProcess
from tests.support.video import psnr, read_video

FIRST_FRAME = {"image_mode": "first_frame"}
"""The demo's weights are for text: they continue a video by a method without training."""


def test_a_remix_repeats_all_but_the_prompt(tenant: ServerProcess, v1: V1) -> None:
    first = v1.made(json={**SMALL, "negative_prompt": "fog", "sampler": "euler", "target_repo": "oxen"})

    again = v1.made(f"/videos/{first['id']}/remix", json={"prompt": first["prompt"]})
    other = v1.made(f"/videos/{first['id']}/remix", json={"prompt": "A goat on a hill"})

    assert v1.content(again["id"]) == v1.content(first["id"]) != v1.content(other["id"])
    assert (other["prompt"], other["size"], other["seconds"]) == ("A goat on a hill", first["size"], first["seconds"])
    assert first["remixed_from_video_id"] is None
    assert again["remixed_from_video_id"] == other["remixed_from_video_id"] == first["id"]
    before, row = tenant.row(first["id"]), tenant.row(other["id"])
    assert row["remixed_from_video_id"] == first["id"]
    same = ("seed", "negative_prompt", "sampler", "num_inference_steps", "target_repo", "model_name")
    assert [row[name] for name in same] == [before[name] for name in same]
    assert row["warnings"] == []
    # of a remix without a seed of its own request, too
    third = v1.create(f"/videos/{other['id']}/remix", json={"prompt": "x", "size": "48x48", "seconds": "0.25"})
    assert (third["size"], third["seconds"]) == ("48x48", "0.25")
    assert tenant.row(third["id"])["seed"] == 7
    assert third["remixed_from_video_id"] == other["id"]


def test_a_drawn_seed_is_kept_by_a_remix(v1: V1) -> None:
    first = v1.made(json={**SMALL, "seed": None})

    again = v1.made(f"/videos/{first['id']}/remix", json={"prompt": first["prompt"]})

    assert v1.content(again["id"]) == v1.content(first["id"])


def test_a_remix_needs_a_prompt_and_a_finished_video(tenant: ServerProcess, v1: V1) -> None:
    first = v1.made(json=SMALL)["id"]
    for body in ({}, {"prompt": " "}):
        openai_error(v1.http.post(f"/videos/{first}/remix", json=body), 400, "prompt")
    openai_error(v1.http.post(f"/videos/{UNKNOWN}/remix", json={"prompt": "x"}), 404)
    running, failed = tenant.enqueue(**ENDLESS), tenant.enqueue(height=0)
    for id_, path in ((running, "remix"), (failed, "remix"), (failed, "extensions"), (failed, "edits")):
        of_video = {"prompt": "x", "video": {"id": id_}}
        address = f"/videos/{id_}/remix" if path == "remix" else f"/videos/{path}"
        error = openai_error(v1.http.post(address, json=of_video), 400, "video")
        assert error["message"].endswith("only a finished video can be used")
    # nobody says of a video what it was made of but the server
    faked = v1.create(json={**SMALL, "remixed_from_video_id": first, "joined_frames": 900})
    assert (faked["remixed_from_video_id"], faked["seconds"]) == (None, "0.312")


def test_an_extension_is_joined_and_has_the_length_of_both(tenant: ServerProcess, v1: V1) -> None:
    first = v1.made(json=SMALL)
    body = {"prompt": "It walks on", "video": {"id": first["id"]}}

    longer = v1.made("/videos/extensions", json={**body, **FIRST_FRAME, "seconds": "0.5"})

    before, both = read_video(v1.content(first["id"])), read_video(v1.content(longer["id"]))
    assert len(both) == 5 + 8 - 1
    assert (both[:5] == before).all()
    assert (longer["seconds"], longer["size"], longer["prompt"]) == ("0.75", "64x64", "It walks on")
    row = tenant.row(longer["id"])
    assert (row["num_inference_steps"], row["extend_from"], row["joined_frames"]) == (2, first["id"], 12)
    # its settings go on, so its way to begin does, too; a form has the id as the packages send it
    form = {"prompt": (None, "And on"), "seconds": (None, "0.5"), "video[id]": (None, longer["id"])}
    third = v1.made("/videos/extensions", files=form)
    assert third["seconds"] == "1.188"
    assert len(read_video(v1.content(third["id"]))) == 12 + 8 - 1
    refused = openai_error(v1.http.post("/videos/extensions", json=body), 400, "video")
    assert "image_mode" in refused["message"] or "not supported" in refused["message"]


@pytest.mark.parametrize("video", [None, "an id", [], {"id": 3}, {"id": None}, {"url": "x"}, {}])
def test_an_extension_needs_the_id_of_a_video(v1: V1, video: Any) -> None:
    openai_error(v1.http.post("/videos/extensions", json={"prompt": "x", "video": video}), 400, "video")


def test_an_edit_is_made_of_a_video_or_of_a_file(tenant: ServerProcess, v1: V1) -> None:
    first = v1.made(json={**SMALL, "num_inference_steps": 4})
    content = v1.content(first["id"])
    gentle = {"prompt": "The same in winter", "strength": 0.25}

    by_id = v1.made("/videos/edits", json={**gentle, "video": {"id": first["id"]}, "seed": 3})

    assert (by_id["size"], by_id["seconds"]) == ("64x64", "0.312")
    assert tenant.row(by_id["id"])["num_inference_steps"] == 4
    assert psnr(content, v1.content(by_id["id"])) > 12
    settings = {"num_inference_steps": 4, "seed": 3, "size": "64x64"}
    form = {name: (None, str(value)) for name, value in {**gentle, **settings}.items()}
    by_file = v1.made("/videos/edits", files={**form, "video": ("ox.mp4", content, "video/mp4")})
    assert v1.content(by_file["id"]) == v1.content(by_id["id"])
    # and a remix of it has its input
    again = v1.made(f"/videos/{by_file['id']}/remix", json={"prompt": gentle["prompt"]})
    assert v1.content(again["id"]) == v1.content(by_id["id"])


def test_an_edit_needs_a_video(v1: V1) -> None:
    openai_error(v1.http.post("/videos/edits", json={"prompt": "x"}), 400, "video")
    for file in (b"no video", b""):
        files = {"video": ("ox.mp4", file, "video/mp4")}
        openai_error(v1.http.post("/videos/edits", data={"prompt": "x"}, files=files), 400, "video")
