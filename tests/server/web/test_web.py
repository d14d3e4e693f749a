"""The page's files, looked at from outside of a browser: their size, their words, what they load."""

import re
from pathlib import Path

import server

WEB = Path(server.__file__).parent / "web"
FILES = [path for path in WEB.rglob("*") if path.is_file()]
MODULES = {path.name: path.read_text(encoding="utf-8") for path in WEB.glob("js/*.js")}
PAGE = (WEB / "index.html").read_text(encoding="utf-8")


def words(language: str) -> dict[str, str]:
    """The words of a language, as strings.js has them."""
    block = re.search(rf"const {language} = {{\n(.*?)\n}};", MODULES["strings.js"], re.DOTALL)
    assert block is not None
    return {
        name or quoted: text for quoted, name, text in re.findall(r'^  (?:"([^"]+)"|(\w+)): "(.*)",$', block[1], re.M)
    }


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 150_000


def test_both_languages_have_every_word_with_the_same_values_in_it() -> None:
    english, chinese = words("ENGLISH"), words("CHINESE")

    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", chinese[name])), name


def test_every_word_that_is_asked_for_is_there_and_none_is_left_over() -> None:
    asked = set(re.findall(r'data-(?:t|label|hint)="([\w.]+)"', PAGE))
    code = "".join(text for name, text in MODULES.items() if name != "strings.js")
    asked |= set(re.findall(r'\bt\("([\w.]+)"', code))
    computed = {"title.", "status.", "stage.", "device.", "deployment.", "cache.", "Sync", "Async"}
    named = set(re.findall(r'"([\w.]+)"', code))

    known = words("ENGLISH")
    assert asked <= known.keys()
    assert {name for name in known if name not in asked | named and not name.startswith(tuple(computed))} == set()


def test_every_module_is_fetched_at_once() -> None:
    preloaded = set(re.findall(r'modulepreload" href="/web/js/([\w.]+)"', PAGE))

    assert preloaded | {"main.js"} == MODULES.keys()


def test_nothing_is_loaded_from_elsewhere_or_run_from_within_the_page() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import", text), path
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", PAGE)
    assert "innerHTML" not in "".join(MODULES.values())
