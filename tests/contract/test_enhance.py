"""Prompts that a language model rewrites, on a real server with a stand-in for the endpoint."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from paddock import Client
from server.enhance.demo_grammar import NOTICE
from tests.contract.test_image_input import drawn, in_base64
from tests.support.chat_server import KEY, MODEL, ChatServer, held, saying, sending
from tests.support.command_line import Typed
from tests.support.models.instruct import instruct_folder
from tests.support.models.serving import TI2V, ti2v_models, ti2v_server
from tests.support.server_process import ENDLESS, SMALL, ServerProcess, eventually, is_alive
from tests.support.video import packets, read_video

PROMPT = str(SMALL["prompt"])
REFUSED = (
    "enhance_prompt needs a language model, which this server does not have. Its operator names one with the settings "
    "enhance_url and enhance_model, or enhance_folder"
)


@pytest.fixture(scope="module")
def server(endpoint: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("enhance") / "data", **endpoint.settings())
    process.start()
    yield process
    process.close()


@pytest.fixture
def lenient(endpoint: ChatServer, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that goes on with the original."""
    process = ServerProcess(tmp_path / "data", **endpoint.settings(enhance_if_down="original", enhance_per_hour="3"))
    process.start()
    yield process
    process.close()


def enqueue(server: ServerProcess, **changes: Any) -> list[str]:
    answer = server.http.post("/queue", json={**SMALL, "enhance_prompt": True, **changes})
    assert answer.status_code == 200, answer.text
    return [str(each["generation_id"]) for each in answer.json()["generations"]]


def test_the_row_has_the_prompt_as_it_was_asked_and_as_it_was_rewritten(
    server: ServerProcess, chat: ChatServer
) -> None:
    chat.answer = held(chat)
    (id_,) = enqueue(server, seed=3)
    eventually(lambda: chat.asked, server)

    row = server.row(id_)
    assert (row["status"], row["queue_position"], row["prompt"]) == ("queued", 1, PROMPT)
    assert row["enhance_prompt"] is True
    assert "enhanced_prompt" not in row
    # others do not wait for it
    other = server.enqueue()
    assert server.wait_for(other, "succeeded")["warnings"] == []
    chat.may_go_on.set()

    row = server.wait_for(id_, "succeeded")
    assert row["prompt"] == PROMPT
    assert row["enhanced_prompt"] == f"{PROMPT} in soft morning light, take 1."
    assert row["enhance_model"] == MODEL
    assert row["enhance_seconds"] > 0
    assert row["warnings"] == []
    assert chat.headers[0]["authorization"] == f"Bearer {KEY}"
    (asked,) = chat.asked
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert (chat.prompts, asked["seed"]) == ([PROMPT], 3)
    (listed,) = [each for each in server.listed("succeeded") if each["generation_id"] == id_]
    assert listed["enhanced_prompt"] == row["enhanced_prompt"]


def test_the_enhanced_prompt_as_the_prompt_gives_the_same_packets(server: ServerProcess, chat: ChatServer) -> None:
    chat.answer = saying("A red circle moves to the left on a green background.")
    (enhanced,) = enqueue(server, prompt="A red circle", seed=11)
    first = server.video(enhanced)
    text = server.row(enhanced)["enhanced_prompt"]
    assert text == "A red circle moves to the left on a green background."

    again = server.video(server.enqueue(prompt=text, seed=11))
    plain = server.video(server.enqueue(prompt="A red circle", seed=11))

    assert packets(again) == packets(first)
    assert (read_video(plain) != read_video(first)).any()
    assert len(chat.asked) == 1


def test_all_videos_of_a_request_share_one_rewritten_prompt(server: ServerProcess, chat: ChatServer) -> None:
    ids = enqueue(server, num_generations=3)
    rows = [server.wait_for(id_, "succeeded") for id_ in ids]

    assert {row["enhanced_prompt"] for row in rows} == {f"{PROMPT} in soft morning light, take 1."}
    assert len({row["seed"] for row in rows}) == 3
    assert len(chat.asked) == 1
    # the same request with the same seed needs no other answer
    (id_,) = enqueue(server, seed=rows[0]["seed"])
    assert server.wait_for(id_, "succeeded")["enhanced_prompt"] == rows[0]["enhanced_prompt"]
    assert len(chat.asked) == 1


@pytest.mark.parametrize("form", ["json", "multipart", "alias"])
def test_the_sync_route_waits_for_it_too(server: ServerProcess, chat: ChatServer, form: str) -> None:
    body = {**SMALL, "prompt": f"An ox in {form}", "prompt_extend" if form == "alias" else "enhance_prompt": True}
    if form == "multipart":
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
        answer = server.http.post("/videos/generate", files={name: (None, value) for name, value in texts.items()})
    else:
        answer = server.http.post("/videos/generate", json=body)

    assert answer.status_code == 200, answer.text
    assert httpx.get(answer.json()["video_url"]).status_code == 200
    assert chat.prompts == [f"An ox in {form}"]
    assert "paddock-warnings" not in answer.headers


def test_a_cancelled_one_stays_cancelled_and_the_endpoint_is_left(server: ServerProcess, chat: ChatServer) -> None:
    chat.answer = held(chat)
    (id_,) = enqueue(server)
    eventually(lambda: chat.asked, server)

    assert server.http.delete(f"/queue/{id_}").status_code == 200
    assert server.row(id_)["status"] == "cancelled"
    # as many as may ask at once: none of the turns is held any more
    others = [enqueue(server, prompt=f"An ox, {number}")[0] for number in range(2)]
    eventually(lambda: len(chat.asked) == 3, server)
    chat.may_go_on.set()
    for other in others:
        server.wait_for(other, "succeeded")

    row = server.row(id_)
    assert (row["status"], row["started_at"]) == ("cancelled", None)
    assert "enhanced_prompt" not in row


def test_a_client_that_hangs_up_cancels_what_waits_for_its_prompt(server: ServerProcess, chat: ChatServer) -> None:
    chat.answer = held(chat)

    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/videos/generate", json={**SMALL, "enhance_prompt": True, "prompt": "left"}, timeout=3)

    eventually(lambda: [row for row in server.listed("cancelled") if row["prompt"] == "left"], server)


@pytest.mark.parametrize(
    ("prompt", "answer", "why"),
    [
        (PROMPT, saying("I'm sorry, I can't help with that."), "is a refusal"),
        (PROMPT, saying("湖边的一头牛，清晨的薄雾笼罩水面，镜头缓缓推近。"), "is in another language"),
        ('A sign with "OPEN"', saying("A sign with words on it, in the rain."), "changes what the prompt quotes"),
        (PROMPT, saying("x" * 2**20), "is longer than 65536 bytes"),
    ],
)
def test_an_unfit_answer_leaves_the_original_with_a_warning(
    server: ServerProcess, chat: ChatServer, prompt: str, answer: Any, why: str
) -> None:
    chat.answer = answer
    reply = server.http.post("/videos/generate", json={**SMALL, "prompt": prompt, "enhance_prompt": True})

    assert reply.status_code == 200, reply.text
    warning = f"The prompt was not enhanced: the language model's answer {why}. The original was used."
    assert reply.headers["paddock-warnings"] == warning
    assert len(chat.asked) == 2
    row = server.listed("succeeded")[0]
    assert (row["prompt"], row["warnings"]) == (prompt, [warning])
    assert "enhanced_prompt" not in row


def test_what_an_answer_has_around_the_prompt_is_taken_away(server: ServerProcess, chat: ChatServer) -> None:
    chat.answer = saying('<think>hm</think>Sure! Here is the enhanced prompt:\n\n"An ox, <|im_end|>at dawn.</s>"')
    (id_,) = enqueue(server, prompt="An ox")

    assert server.wait_for(id_, "succeeded")["enhanced_prompt"] == "An ox, at dawn."


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (sending(b"", 500), "answers with HTTP status 500"),
        (sending(b"", 302, location="http://127.0.0.1:1/"), "answers with a redirect (HTTP status 302)"),
        (sending(b"<html>"), "answers with what is not a chat completion"),
    ],
)
def test_without_the_endpoint_a_generation_fails(
    server: ServerProcess, chat: ChatServer, answer: Any, why: str
) -> None:
    chat.answer = answer
    sentence = f"The prompt was not enhanced: the language model's endpoint {why}."

    (id_,) = enqueue(server, prompt=f"down {why}")
    row = server.wait_for(id_, "failed")
    assert (row["error_message"], row["started_at"]) == (sentence, None)
    refused = server.http.post("/videos/generate", json={**SMALL, "prompt": f"down {why}", "enhance_prompt": True})
    assert refused.status_code == 503
    assert (refused.json()["error"]["type"], refused.json()["error"]["message"]) == ("unavailable", sentence)


def test_or_the_original_is_used_and_only_so_many_are_rewritten(lenient: ServerProcess, chat: ChatServer) -> None:
    chat.answer = sending(b"", 500)
    (id_,) = enqueue(lenient)
    row = lenient.wait_for(id_, "succeeded")
    assert row["warnings"] == [
        "The prompt was not enhanced: the language model's endpoint answers with HTTP status 500. "
        "The original was used."
    ]
    assert "enhanced_prompt" not in row

    chat.answer = saying("An ox at dawn.")
    enqueue(lenient, num_generations=2)
    rewritten = lenient.http.post("/prompts/enhance", json={"prompt": "An ox"})
    assert rewritten.json()["enhanced_prompt"] == "An ox at dawn."
    for path, body in (("/queue", {**SMALL, "enhance_prompt": True}), ("/prompts/enhance", {"prompt": "An ox"})):
        refused = lenient.http.post(path, json=body)
        assert refused.status_code == 429
        assert refused.json()["error"]["message"] == "3 prompts were enhanced within an hour: this is the limit."
        assert int(refused.headers["retry-after"]) > 3000
    assert lenient.http.post("/queue", json=SMALL).status_code == 200


def test_the_text_is_the_same_after_a_kill_between_rewrite_and_claim(chat: ChatServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", checkpoint_interval="0", **chat.settings())
    server.start()
    try:
        busy = server.enqueue(**ENDLESS)
        server.wait_for(busy, "processing")
        (id_,) = enqueue(server)
        text = eventually(lambda: server.row(id_).get("enhanced_prompt"), server)
        chat.answer = held(chat)
        (unanswered,) = enqueue(server, prompt="not yet")
        eventually(lambda: len(chat.asked) == 2, server)
        assert server.row(id_)["status"] == "queued"
        server.kill()

        chat.may_go_on.set()
        server.start()
        server.http.delete(f"/queue/{busy}")

        row = server.wait_for(id_, "succeeded")
        assert (row["enhanced_prompt"], text) == (text, f"{PROMPT} in soft morning light, take 1.")
        # what was not answered is asked for again
        assert server.wait_for(unanswered, "succeeded")["enhanced_prompt"].startswith("not yet in soft morning light")
        assert chat.prompts == [PROMPT, "not yet", "not yet"]
    finally:
        server.close()


def test_the_prompt_alone(server: ServerProcess, chat: ChatServer) -> None:
    answer = server.http.post("/prompts/enhance", json={"prompt": "湖边的牛", "model": SMALL["model"], "seed": 5})

    assert answer.status_code == 200, answer.text
    seconds = answer.json()["seconds"]
    assert answer.json() == {
        "prompt": "湖边的牛",
        "enhanced_prompt": "湖边的牛，清晨的薄雾 1.",
        "model": MODEL,
        "seconds": seconds,
        "warnings": [],
    }
    assert chat.asked[0]["seed"] == 5
    # a generation with this seed has the same words
    (id_,) = enqueue(server, prompt="湖边的牛", seed=5)
    assert server.wait_for(id_, "succeeded")["enhanced_prompt"] == "湖边的牛，清晨的薄雾 1."
    assert len(chat.asked) == 1

    chat.answer = saying("抱歉，我无法帮助。")
    refused = server.http.post("/prompts/enhance", json={"prompt": "山"}).json()
    assert (refused["enhanced_prompt"], len(refused["warnings"])) == ("山", 1)
    chat.answer = sending(b"", 500)
    down = server.http.post("/prompts/enhance", json={"prompt": "河"})
    assert (down.status_code, down.json()["error"]["type"]) == (503, "unavailable")
    assert "retry-after" in down.headers


def test_who_leaves_holds_no_turn(server: ServerProcess, chat: ChatServer) -> None:
    chat.answer = held(chat)
    # more than may ask at once for one key
    for number in range(3):
        with pytest.raises(httpx.ReadTimeout):
            server.http.post("/prompts/enhance", json={"prompt": f"left, {number}"}, timeout=1)

    chat.answer = saying("An ox at dawn.")
    answer = server.http.post("/prompts/enhance", json={"prompt": "An ox"}, timeout=20)
    assert answer.json()["enhanced_prompt"] == "An ox at dawn."


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 400, "prompt must be a string with at least one word"),
        ({"prompt": " "}, 400, "prompt must be a string with at least one word"),
        ({"prompt": "x" * 10_001}, 400, "prompt must be at most 10000 characters long"),
        ({"prompt": "x", "seed": -1}, 400, "seed must be an integer between 0 and 9007199254740991"),
        ({"prompt": "x", "model": "none"}, 404, "Model not found: none"),
        ({"prompt": "x", "prmopt": "y"}, 400, "'prmopt' is not a parameter here; these are: prompt, model, seed"),
    ],
)
def test_what_the_route_refuses(server: ServerProcess, body: dict[str, Any], status: int, sentence: str) -> None:
    answer = server.http.post("/prompts/enhance", json=body)

    assert (answer.status_code, answer.json()["error"]["message"]) == (status, sentence)


def test_the_command_line_and_the_client(server: ServerProcess, chat: ChatServer, typed: Typed, tmp_path: Path) -> None:
    size = ["--width", "64", "--height", "64", "--frames", "5", "--steps", "2"]
    ended = typed("generate", "an ox", *size, "--enhance", "-o", str(tmp_path / "ox.mp4"), PADDOCK_URL=server.url)
    assert ended.returncode == 0, ended.stderr
    assert "Made of: an ox in soft morning light, take 1." in ended.stdout
    assert (tmp_path / "ox.mp4").exists()

    with Client(server.url) as client:
        made = client.generate("a cow", width=64, height=64, num_frames=5, num_inference_steps=2, enhance_prompt=True)
    assert (made.prompt, made.enhanced_prompt) == ("a cow", "a cow in soft morning light, take 2.")


def test_the_model_page_offers_it_where_there_is_a_language_model(server: ServerProcess) -> None:
    model = server.http.get(f"/models/{SMALL['model']}").json()

    assert {"enhance_prompt", "prompt_extend"} <= model["x-paddock-parameters"].keys()
    assert "enhance_prompt" not in model["request_schema"]["properties"]


def test_a_stop_does_not_wait_for_the_endpoint(chat: ChatServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", **chat.settings())
    server.start()
    try:
        chat.answer = held(chat)
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(server.http.post("/prompts/enhance", json={"prompt": "An ox"}))
        )
        asking.start()
        (id_,) = enqueue(server)
        eventually(lambda: len(chat.asked) == 2, server)
        server.stop(timeout=30)
        asking.join()
        assert answers[0].status_code == 503
        chat.may_go_on.set()
        server.start()
        assert server.wait_for(id_, "succeeded")["enhanced_prompt"]
        assert "Traceback" not in server.log_text()
    finally:
        server.close()


def test_a_server_without_a_language_model_says_so(tmp_path: Path) -> None:
    server = ti2v_server(tmp_path / "data", ti2v_models(tmp_path))
    server.start()
    try:
        request = {**SMALL, "model": TI2V, "width": 64, "height": 32}
        refused = server.http.post("/videos/generate", json={**request, "enhance_prompt": True})
        assert (refused.status_code, refused.json()["error"]["message"]) == (400, REFUSED)
        (id_,) = enqueue(server, **request)
        assert server.wait_for(id_, "failed")["error_message"] == REFUSED
        answer = server.http.post("/prompts/enhance", json={"prompt": "x"})
        assert answer.status_code == 400
        assert "settings enhance_url and enhance_model" in answer.json()["error"]["message"]
        assert server.wait_for(server.enqueue(**request, enhance_prompt=False), "succeeded")["warnings"] == []
    finally:
        server.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A demo without a language model."""
    process = ServerProcess(tmp_path_factory.mktemp("grammar") / "data")
    process.start()
    yield process
    process.close()


def test_the_demos_grammar_fills_in_what_a_prompt_leaves_out(demo: ServerProcess) -> None:
    prompt = "一头牛在湖边"
    (id_,) = enqueue(demo, prompt=prompt, seed=7)
    first = demo.video(id_)
    row = demo.row(id_)

    assert (row["prompt"], row["enhance_model"]) == (prompt, "demo-grammar")
    assert row["enhanced_prompt"].startswith(f"{prompt}，")
    assert row["warnings"] == [NOTICE]
    # only the recipe in the file tells which prompt was asked for
    assert packets(demo.video(demo.enqueue(prompt=row["enhanced_prompt"], seed=7))) == packets(first)
    alone = demo.http.post("/prompts/enhance", json={"prompt": prompt, "seed": 7}).json()
    assert (alone["enhanced_prompt"], alone["warnings"]) == (row["enhanced_prompt"], [NOTICE])


def test_a_prompt_that_names_all_is_left_as_it_is(demo: ServerProcess) -> None:
    sentence = "The prompt was not enhanced: the demo's grammar has nothing to add. The original was used."
    (id_,) = enqueue(demo, prompt="a red ring moving left on a blue background")

    row = demo.wait_for(id_, "succeeded")
    assert row["warnings"] == [sentence]
    assert "enhanced_prompt" not in row


def test_an_image_is_seen_where_the_settings_say_so(chat: ChatServer, tmp_path: Path) -> None:
    models = ti2v_models(tmp_path)
    server = ti2v_server(tmp_path / "data", models, **chat.settings(enhance_sees_image="true"))
    server.start()
    try:
        request = {"model": TI2V, "input_image": in_base64(drawn((2000, 1000))), "width": 64, "height": 32}
        (id_,) = enqueue(server, **request)
        row = server.wait_for(id_, "succeeded")
        assert row["enhanced_prompt"] == f"{PROMPT} in soft morning light, take 1."
        (text, picture) = chat.prompts[0]
        assert text == {"type": "text", "text": PROMPT}
        assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
        assert len(picture["image_url"]["url"]) < 100_000
        assert "begins with a given image" in chat.asked[0]["messages"][0]["content"]
    finally:
        server.close()


def test_a_models_file_may_ask_for_it(chat: ChatServer, tmp_path: Path) -> None:
    models = ti2v_models(tmp_path)
    file = models / "wan2.2-ti2v-5b.toml"
    file.write_text(file.read_text().replace("[api]\n", "[api]\nenhance_prompt = true\n", 1))
    server = ti2v_server(tmp_path / "data", models, **chat.settings())
    server.start()
    try:
        assert server.wait_for(server.enqueue(model=TI2V), "succeeded")["enhanced_prompt"]
        assert "enhanced_prompt" not in server.wait_for(server.enqueue(model=TI2V, prompt_extend=False), "succeeded")
        assert len(chat.asked) == 1
        # so that a page can show it
        own = server.http.get(f"/models/{TI2V}").json()["x-paddock-parameters"]
        assert own["enhance_prompt"]["default"] is True
    finally:
        server.close()


def test_a_model_of_this_machine_rewrites_prompts(tmp_path: Path) -> None:
    folder = instruct_folder(tmp_path / "instruct")
    server = ServerProcess(tmp_path / "data", enhance_folder=str(folder))
    server.start()
    try:
        (id_,) = enqueue(server, prompt="an ox by a lake", seed=1)
        row = server.wait_for(id_, "succeeded")
        again = server.http.post("/prompts/enhance", json={"prompt": "an ox by a lake", "seed": 1}).json()
        assert server.process is not None
        children = psutil.Process(server.process.pid).children()
        child = next(each for each in children if "pipelines.tools.chat" in each.cmdline())
    finally:
        server.close()

    assert row["warnings"] == []
    assert (row["enhance_model"], again["model"]) == ("instruct", "instruct")
    assert row["enhanced_prompt"] == again["enhanced_prompt"] != "an ox by a lake"
    # the system ends it with its server
    eventually(lambda: not is_alive(child.pid))
