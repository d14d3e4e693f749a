"""What becomes of a language model's answers before they are prompts."""

import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.enhance.guards import UnfitAnswerError, checked, cleaned
from server.enhance.language import MAX_TOKENS, estimated_tokens, is_chinese, quotations

OX = "An ox by a lake"
RICH = "A sturdy brown ox stands by a still mountain lake at dawn, mist over the water, in a slow wide shot."
ZH = "湖边的一头牛"
RICH_ZH = "一头健壮的棕色公牛站在清晨的湖边，薄雾笼罩水面，阳光从山后洒下，镜头缓缓推近。"


@pytest.mark.parametrize(
    "answer",
    [
        RICH,
        f"  {RICH}\n",
        f'"{RICH}"',
        f"“{RICH}”",
        f"'{RICH}'",
        f"**{RICH}**",
        f"```\n{RICH}\n```",
        f"```text\n{RICH}\n```",
        f"Here is the prompt:\n\n```\n{RICH}\n```\nLet me know if you want changes!",
        f"Here is the enhanced prompt: {RICH}",
        f"Here's an enriched version of your prompt:\n\n{RICH}",
        f"Sure! Here is a rewritten prompt:\n{RICH}",
        f"Certainly!\n\n{RICH}",
        f"Okay\n{RICH}",
        f"Sure, I can do that.\n{RICH}",
        f"Great! I'd be happy to help.\n\n{RICH}",
        f"**Enhanced prompt:** {RICH}",
        f"Prompt: {RICH}",
        f"Enhanced Prompt:\n\n“{RICH}”",
        f"<think>The user wants an ox.\nI shall see.</think>\n\n{RICH}",
        f"The user wants an ox.</think>{RICH}",
        f"{RICH}\n\nLet me know if you would like another version.",
        f"{RICH}\n\nNote: I added light and camera.",
        f"{RICH}<|im_end|>",
        f"<s>{RICH}</s>",
        f"<|im_start|>assistant\n{RICH}<|im_end|>",
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{RICH}",
        f"<extra_id_0>{RICH}<extra_id_99><pad>",
        f"[INST]{RICH}[/INST]",
        f"<|<|x|>im_end|>{RICH}",
        RICH.replace(" ", "\u200b \x00\u202e", 1),
        RICH.replace(" stands", "\n\nstands"),
        RICH.replace("ox", "ox\ud83d", 1),
    ],
)
def test_an_answer_becomes_the_prompt_that_it_has(answer: str) -> None:
    assert checked(OX, answer) == RICH


@pytest.mark.parametrize(
    "answer",
    [
        f"好的，以下是改写后的提示词：\n\n{RICH_ZH}",
        f"以下是扩写后的提示词：{RICH_ZH}",
        f"好的！\n{RICH_ZH}",
        f"「{RICH_ZH}」",
    ],
)
def test_a_chinese_answer_becomes_the_prompt_that_it_has(answer: str) -> None:
    assert checked(ZH, answer) == RICH_ZH


@pytest.mark.parametrize(
    ("original", "answer", "why"),
    [
        (OX, "", "is empty"),
        (OX, " \n\x00\u200b", "is empty"),
        (OX, "<think>still thinking", "is empty"),
        (OX, "<|im_end|>", "is empty"),
        (OX, "I'm sorry, I can't help with that.", "is a refusal"),
        (OX, "I’m sorry, but I cannot do this.", "is a refusal"),
        (OX, "As an AI, I do not make videos.", "is a refusal"),
        (ZH, "很抱歉，我无法完成这个请求。", "is a refusal"),
        (OX, RICH_ZH, "is in another language"),
        (ZH, RICH, "is in another language"),
        ("Бык у озера", RICH_ZH, "is in another language"),
        ("湖のほとりの牛がゆっくり歩く", RICH_ZH, "is in another language"),
        ('A sign that reads "OPEN 24h"', RICH, "changes what the prompt quotes"),
        ('A sign that reads "OPEN 24h"', f"{RICH} A sign reads “Open 24h”.", "changes what the prompt quotes"),
        ("一块写着“今日休息”的牌子", RICH_ZH, "changes what the prompt quotes"),
        (OX, "<|" * 40 + "x" + "|>" * 40 + RICH, "has special tokens"),
    ],
)
def test_an_answer_that_cannot_be_a_prompt_is_refused(original: str, answer: str, why: str) -> None:
    with pytest.raises(UnfitAnswerError, match=why):
        checked(original, answer)


@pytest.mark.parametrize(
    ("original", "answer"),
    [
        ('A sign that reads "OPEN 24h"', 'A red neon sign above a door reads "OPEN 24h", in the rain at night.'),
        ('A sign that reads "你好"', 'A wooden sign in a garden reads "你好" in black ink, in soft light.'),
        ("一块写着“Hello”的牌子", "一块木制的牌子立在雪地里，上面写着“Hello”，阳光明亮。"),
        ('"No"', '"No"'),
        ("Sorry is the word on the wall", "Sorry is the word on the wall, in red paint that runs down the bricks."),
        ("Here is a castle: it burns", "Here is a castle: it burns through the night, sparks over the towers."),
        ("A shark", "Great white sharks circle a small boat.\nThe water is dark green and still."),
        ("A castle", "Here is a castle on a hill.\nThe sun sets behind its towers."),
        ("一座城堡", "这是一座山顶的城堡，云雾环绕。\n夕阳落在塔楼后面。"),
        ("一座城堡", "可以看到山顶的城堡，云雾环绕。\n夕阳落在塔楼后面。"),
        ("It's a dog's life", "It's a dog's life on a sunny porch, a brown dog asleep, a slow push in."),
        ('A 5" doll and a 6" doll', "A 5 inch doll and a 6 inch doll on a shelf in warm light."),
        ('"Yes" and "no"', '"Yes" and "no"'),
        ("Бык у озера", "Крепкий бурый бык стоит у тихого горного озера на рассвете, туман над водой, общий план."),
    ],
)
def test_what_is_as_it_should_be_is_kept(original: str, answer: str) -> None:
    assert checked(original, answer) == answer.replace("\n", " ")


@pytest.mark.parametrize("text", [ZH, RICH_ZH, "一只叫Tom的猫在屋顶上", "4K画质，一只猫", "牛", "“Hello”写在墙上"])
def test_chinese(text: str) -> None:
    assert is_chinese(text)


@pytest.mark.parametrize(
    "text",
    [
        OX,
        "",
        "1 2 3",
        "a cat named 小花 in Beijing",
        'the words "春节快乐"',
        "猫が屋根の上で寝ている",
        "고양이",
        "a 🐈",
    ],
)
def test_not_chinese(text: str) -> None:
    assert not is_chinese(text)


def test_what_is_quoted() -> None:
    text = "A \"b c\" and “d”, «e», „f“, 「g」 and 『h』, 《i》, 'j k' and ‘l’, but not it's, 5\" nor o'clock"

    assert quotations(text) == ["b c", "d", "e", "f", "g", "h", "i", "j k", "l"]


@given(st.text(max_size=400))
def test_whatever_is_answered_is_clean_or_refused(answer: str) -> None:
    try:
        prompt = checked(OX, answer)
    except UnfitAnswerError as error:
        assert str(error)
        return
    assert prompt == prompt.strip()
    assert prompt
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Co") for each in prompt)
    prompt.encode()


@pytest.mark.parametrize(
    "part", ["<think>", "</think>", "```\n", "\n", " ", "\n \n", "<|", '"', "'", "“", "[", "Here is "]
)
def test_long_answers_take_no_long_time(part: str) -> None:
    # a pattern that goes back over all of it at each character would need minutes
    for answer in (part * (65_536 // len(part)), RICH + part * (65_536 // len(part)) + "x"):
        try:
            checked(OX, answer)
        except UnfitAnswerError as error:
            assert str(error)


PIECES = (
    "<|",
    "|>",
    "<",
    ">",
    "im_end",
    "</s>",
    "<s>",
    "<think>",
    "</think>",
    "```",
    "\n",
    '"',
    "extra_id_0",
    " ",
    "ox",
    ":",
)


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_no_special_token_is_left_however_it_is_hidden(pieces: list[str]) -> None:
    try:
        prompt = cleaned("".join(pieces))
    except UnfitAnswerError:
        return
    assert "</s>" not in prompt
    assert "<extra_id_0>" not in prompt
    assert "<|im_end|>" not in prompt
    assert "```" not in prompt


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=80))
def test_what_is_quoted_is_in_each_prompt_that_is_accepted(quoted: str) -> None:
    original = f'a wall with the words "{quoted}" on it'
    answer = f'a white wall in the sun with the words "{quoted}" on it, in a slow pan'
    try:
        prompt = checked(original, answer)
    except UnfitAnswerError:
        return
    for each in quotations(original):
        assert " ".join(each.split()) in prompt


TOKEN_IDS = Path(__file__).parents[3] / "pipelines" / "tools" / "umt5_token_ids.json"


@pytest.mark.parametrize("known", json.loads(TOKEN_IDS.read_text()), ids=lambda known: known["text"])
def test_an_estimate_is_no_less_than_what_the_published_tokenizer_counts(known: dict[str, Any]) -> None:
    assert len(known["ids"]) <= estimated_tokens(known["text"]) <= 4 * len(known["ids"])


def test_descriptions_of_usual_length_are_within_the_limit() -> None:
    assert estimated_tokens(" ".join([RICH] * 10)) < MAX_TOKENS
    assert estimated_tokens(RICH_ZH * 8) < MAX_TOKENS


@pytest.mark.parametrize(
    "scene",
    [
        "Great waves crash, the result of a storm: foam everywhere, gulls.",
        "The final result of the battle: soldiers stand in mud.",
        "An ox.\n\nNote the mist over the lake. It drifts.",
        "A valley.\n\nChanges of light pass over it.",
        "一片湖。\n\n如果有风，水面会动。",
    ],
)
def test_a_scene_is_not_taken_for_what_is_around_it(scene: str) -> None:
    assert cleaned(scene) == " ".join(scene.split())


@pytest.mark.parametrize("marks", ["*", "* ", "#", "Sure*", "**\n"])
def test_marks_take_no_more_time_than_letters(marks: str) -> None:
    """The event loop waits for it: each took a thousand times as long."""
    letters, hostile = (each * (60_000 // len(each)) for each in ("a", marks))

    def seconds(text: str) -> float:
        began = time.process_time()
        cleaned(text)
        return time.process_time() - began

    assert min(seconds(hostile) for _ in range(3)) < 50 * min(seconds(letters) for _ in range(3))
