"""Prompts that become freer by a style card: by a language model where there is one, else by the card's words."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.enhance.styles import Styles, inspired
from tests.contract.test_enhance import MODEL, PROMPT, enqueue
from tests.support.chat_server import ChatServer, saying
from tests.support.command_line import Typed
from tests.support.server_process import SMALL, ServerProcess
from tests.support.video import packets

STYLES = Styles.read()
ASKED = {"enhance_prompt": None, "inspiration": True}


def words(prompt: str, seed: int) -> tuple[str, str]:
    """The card of a prompt, and the prompt with its words."""
    style = STYLES.chosen(prompt, seed)
    text = inspired(prompt, style, 10_000)
    assert text is not None
    return style.id, text


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without a language model."""
    process = ServerProcess(tmp_path_factory.mktemp("inspire") / "data")
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def server(endpoint: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("inspire")
    process = ServerProcess(folder / "data", **endpoint.settings(enhance_if_down="original"))
    process.start()
    yield process
    process.close()


def test_without_a_language_model_the_cards_words_are_added(plain: ServerProcess) -> None:
    (id_,) = enqueue(plain, **ASKED, seed=5)
    first = plain.video(id_)
    row = plain.row(id_)

    style, text = words(PROMPT, 5)
    assert (row["prompt"], row["inspiration_style"], row["enhanced_prompt"]) == (PROMPT, style, text)
    assert row["inspiration"] is True
    assert "enhance_model" not in row
    assert row["warnings"] == []
    # only the recipe in the file tells which prompt was asked for
    assert packets(plain.video(plain.enqueue(prompt=text, seed=5))) == packets(first)


def test_each_video_of_a_request_has_another_card(plain: ServerProcess) -> None:
    rows = [plain.wait_for(id_, "succeeded") for id_ in enqueue(plain, **ASKED, num_generations=4)]

    assert len({row["inspiration_style"] for row in rows}) == 4
    for row in rows:
        assert (row["inspiration_style"], row["enhanced_prompt"]) == words(PROMPT, row["seed"])


def test_a_style_that_the_prompt_names_is_kept(plain: ServerProcess) -> None:
    for id_ in enqueue(plain, **ASKED, prompt="水墨的山", num_generations=2):
        row = plain.row(id_)
        assert row["inspiration_style"] == "ink-wash"
        assert row["enhanced_prompt"].startswith("水墨的山。朦胧无影的光，")


def test_the_language_model_gets_the_card(server: ServerProcess, chat: ChatServer) -> None:
    ids = enqueue(server, **ASKED, num_generations=2)
    rows = [server.wait_for(id_, "succeeded") for id_ in ids]

    assert len({row["enhanced_prompt"] for row in rows}) == 2
    cards = {}
    for question in chat.asked:
        system, user = (message["content"] for message in question["messages"])
        assert user == PROMPT
        assert question["temperature"] == 1.0
        cards[question["seed"]] = system
    for row in rows:
        style = STYLES.of(row["inspiration_style"])
        assert style is not None
        assert style == STYLES.chosen(PROMPT, row["seed"])
        assert cards[row["seed"] % 2**31].endswith(f"- mood: {style.en.mood}")
        assert row["enhance_model"] == MODEL


def test_an_unfit_answer_leaves_the_cards_words(server: ServerProcess, chat: ChatServer) -> None:
    chat.answer = saying("I'm sorry, I can't help with that.")

    (id_,) = enqueue(server, **ASKED, seed=8)
    row = server.wait_for(id_, "succeeded")

    assert (row["inspiration_style"], row["enhanced_prompt"]) == words(PROMPT, 8)
    assert "enhance_model" not in row
    assert row["warnings"] == [
        "The prompt was not enhanced: the language model's answer is a refusal. The words of its style were added "
        "instead."
    ]


def test_every_card_counts_as_a_rewrite(chat: ChatServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", **chat.settings(enhance_per_hour="7"))
    server.start()
    try:
        answer = server.http.post("/queue", json={**SMALL, "inspiration": True, "num_generations": 4})
        assert answer.status_code == 200
        again = server.http.post("/queue", json={**SMALL, "inspiration": True, "num_generations": 4})
        assert (again.status_code, again.json()["error"]["message"]) == (
            429,
            "7 prompts were enhanced within an hour: this is the limit.",
        )
    finally:
        server.close()


@pytest.mark.parametrize("given", ["yes", 1, ["a"]])
def test_inspiration_is_a_boolean(plain: ServerProcess, given: object) -> None:
    answer = plain.http.post("/videos/generate", json={**SMALL, "inspiration": given})

    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "inspiration must be a boolean")
    (id_,) = enqueue(plain, enhance_prompt=None, inspiration=given)
    assert plain.row(id_)["error_message"] == "inspiration must be a boolean"


def test_a_prompt_without_room_for_a_style_is_used_as_it_is(plain: ServerProcess) -> None:
    (id_,) = enqueue(plain, **ASKED, prompt="an ox by a lake " * 200)
    row = plain.wait_for(id_, "succeeded")

    assert "inspiration_style" not in row
    assert "The prompt has no room for the words of a style: inspiration had no effect." in row["warnings"]


def test_enhance_prompt_with_inspiration_needs_no_language_model(plain: ServerProcess) -> None:
    (id_,) = enqueue(plain, enhance_prompt=True, inspiration=True, seed=5)

    assert plain.row(id_)["inspiration_style"] == words(PROMPT, 5)[0]


def test_every_model_page_offers_it(plain: ServerProcess) -> None:
    for model in plain.http.get("/models").json()["data"]:
        assert "inspiration" in model["x-paddock-parameters"]
        assert "inspiration" not in model["request_schema"]["properties"]


def test_the_command_line_says_the_style(plain: ServerProcess, typed: Typed, tmp_path: Path) -> None:
    size = ("--width", "64", "--height", "64", "--frames", "5", "--steps", "2", "--seed", "5")
    ended = typed("generate", PROMPT, "--inspiration", *size, PADDOCK_URL=plain.url)

    assert ended.returncode == 0, ended.stderr
    style, text = words(PROMPT, 5)
    assert f"Style: {style}" in ended.stdout
    assert f"Made of: {text}" in ended.stdout


def test_wrong_cards_refuse_the_start(tmp_path: Path) -> None:
    cards = tmp_path / "styles.toml"
    cards.write_text("style = []", encoding="utf-8")
    process = ServerProcess(tmp_path / "data", inspiration_styles=str(cards))

    with pytest.raises(AssertionError, match="the server ended with 2"):
        process.start()
    assert f"{cards}: style: List should have at least 1 item" in process.log_text()
