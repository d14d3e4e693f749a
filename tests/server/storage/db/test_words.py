"""The words of any text, and which searches ask for them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.storage.db.words import MAX_CHARACTERS, MAX_TERMS, MAX_WORDS, terms, words

SCRIPTS = {
    "Han": "湖边的牛",
    "Hiragana": "みずうみ",
    "Katakana": "ミズウー",
    "Hangul": "한국어말",
    "Thai": "ทะเลสา",
    "Lao": "ທະເລສາ",
    "Khmer": "បឹងទន្លេ",
    "Myanmar": "ရေကန်",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("An ox, an OX by 2 lakes", "an ox by 2 lakes"),
        ("ox_cart don't 3.5", "ox cart don t 3 5"),
        ("Éa Ångström naïve", "ea angstrom naive"),
        ("Straße STRASSE ﬁsh ＯＸ x²", "strasse fish ox x2"),
        ("İstanbul Kırklareli", "istanbul kırklareli"),
        ("ΟΔΟΣ οδός Ёжик", "οδοσ ежик"),
        ("हिन्दी עִבְרִית", "हिन्दी עִבְרִית"),
        ("soft\u00adhyphen \u200eleft می\u200cخواهم", "softhyphen left میخواهم"),
        ("湖边的牛dog牛 第3天", "湖边 边的 的牛 牛 dog 第 3 天"),
        ("ｶﾞﾗｽ 時々", "ガラ ラス ス 時々 々"),
        ("👩\u200d🚀❤\ufe0f 20°C", "👩 🚀 ❤ 20 ° c"),
        ("\0 \ud800 \udfff \ue000 \ufffe … ^&*()'\"\\", ""),
        ("", ""),
    ],
)
def test_words_have_one_form(text: str, expected: str) -> None:
    # the marks of Hebrew are put in order
    assert words(text) == [words(word)[0] if word[0] > "\u0590" > word[-1] else word for word in expected.split()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_any_part_of_a_text_without_spaces_is_found(script: str) -> None:
    text = SCRIPTS[script]

    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            assert is_found(text[start:end], f"lake{text}ox"), text[start:end]
    assert not is_found(text[1] + text[0], text)


def test_a_search_for_characters_asks_for_pairs() -> None:
    assert terms("湖") == ["湖"]
    assert terms("湖边的牛 ox湖") == ["湖边", "边的", "的牛", "ox", "湖"]


def test_words_are_bounded() -> None:
    assert words(" ".join(map(str, range(10 * MAX_WORDS)))) == [*map(str, range(MAX_WORDS))]
    assert len(terms(" ".join(map(str, range(10 * MAX_WORDS))))) == MAX_TERMS
    assert words("x" * 10_000) == terms("x" * 10_000) == ["x" * MAX_CHARACTERS]
    assert len(words("".join(map(chr, range(0x3300, 0x9000))))) == MAX_WORDS
    assert words("ox " * 5_000 + "湖" * 5_000) == ["ox", "湖湖", "湖"]


def is_found(search: str, text: str) -> bool:
    return all(any(word.startswith(term) for word in words(text)) for term in terms(search))


@given(st.text(st.sampled_from("aBc1 ,_-湖边牛"), max_size=30))
def test_words_agree_with_a_plain_rule(text: str) -> None:
    expected = set(re.findall(r"[a-z0-9]+", text.lower()))
    for run in re.findall("[湖边牛]+", text):
        expected |= {run[at : at + 2] for at in range(len(run))}

    assert set(words(text)) == expected


@given(st.text())
def test_a_word_is_its_own_word_and_holds_nothing_that_a_database_could_misread(text: str) -> None:
    for word in words(text):
        assert word in words(word)
        assert is_found(word, text)
        assert not re.search(r"[^\da-z]", word, re.ASCII) or not word.isascii()
        assert not re.search(r"[\s\0-/:-`{-\x7f\ud800-\udfff]", word)
        word.encode()


@given(st.text(), st.text(), st.text("abé湖边ß 1,"))
def test_a_text_is_found_by_every_part_that_begins_at_a_word(before: str, part: str, after: str) -> None:
    # what could be joined to the part's last character, such as a mark, is apart from it
    assert is_found(part, f"{before} {part} {after}")
    assert is_found(after[:4], f"{before} {after}")


def test_no_character_is_an_error() -> None:
    for code in range(0x110000):
        for word in words(f"a{chr(code)}"):
            assert words(word)[0] == word
