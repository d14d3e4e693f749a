"""Static checks of the page's files: their size, their texts and what they load."""

import gzip
import re
from pathlib import Path

import server

WEB = Path(server.__file__).parent / "web"
# Swagger UI is not ours
FILES = [path for path in WEB.rglob("*") if path.is_file() and "swagger-ui" not in path.parts]
MODULES = {path.relative_to(WEB / "js").as_posix(): path.read_text(encoding="utf-8") for path in WEB.glob("js/**/*.js")}
STYLES = sorted(path.relative_to(WEB / "css").as_posix() for path in WEB.glob("css/*.css"))
MOST_LINES = 350
PAGE = (WEB / "index.html").read_text(encoding="utf-8")
REFERENCE = (WEB / "reference" / "index.html").read_text(encoding="utf-8")


def texts(language: str) -> dict[str, str]:
    """The texts of a language."""
    block = "".join(text for name, text in MODULES.items() if name.startswith(f"texts/{language}/"))
    found = re.findall(r'^  (?:"([^"]+)"|(\w+)): "(.*)",$', block, re.M)
    names = [name or quoted for quoted, name, _ in found]
    assert len(names) == len(set(names)), "one text would hide another"
    return dict(zip(names, [text for *_, text in found], strict=True))


def test_the_page_is_small() -> None:
    # as it is sent
    assert sum(len(gzip.compress(path.read_bytes())) for path in FILES) < 150_000


def test_each_module_is_one_concept() -> None:
    assert {name for name, text in MODULES.items() if text.count("\n") > MOST_LINES} == set()


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, chinese = texts("english"), texts("chinese")

    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", chinese[name])), name


def test_every_text_that_is_used_exists_and_every_text_is_used() -> None:
    used = set(re.findall(r'data-(?:t|label|hint)="([\w.]+)"', PAGE))
    code = "".join(text for name, text in MODULES.items() if not name.startswith("texts/"))
    used |= set(re.findall(r'\bt\("([\w.]+)"', code))
    computed = {
        "title.",
        "status.",
        "stage.",
        "told.",
        "device.",
        "deployment.",
        "cache.",
        "cacheHelp.",
        "help.",
        "Sync",
        "Async",
    }
    named = set(re.findall(r'"([\w.]+)"', code))

    known = texts("english")
    assert used <= known.keys()
    assert {name for name in known if name not in used | named and not name.startswith(tuple(computed))} == set()


def test_every_module_is_preloaded_and_every_style_is_used() -> None:
    preloaded = set(re.findall(r'modulepreload" href="web/js/([\w./]+)"', PAGE))

    assert sorted(re.findall(r'stylesheet" href="web/css/([\w.]+)"', PAGE)) == STYLES
    assert preloaded | {"main.js"} == MODULES.keys()


def test_all_that_is_imported_or_shown_exists() -> None:
    for path in FILES:
        if path.suffix not in (".js", ".css"):
            continue
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'(?:from |import )"(\.[^"]+)"|url\("([^"]+)"\)', text):
            assert (path.parent / (name[0] or name[1])).is_file(), (path, name)
    for page in (PAGE, REFERENCE):
        for name in re.findall(r'(?:href|src)="web/([^"]+)"', page):
            assert (WEB / name).is_file(), name


def test_the_page_loads_nothing_from_other_hosts_and_has_no_inline_code() -> None:
    for path in FILES:
        if path.suffix == ".ico":
            continue
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import", text), path
    for page in (PAGE, REFERENCE):
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", page)
    # nor from a path of this host: a proxy may serve it under any
    assert not re.search(
        r"""(?:href|src)="/|url\("/|["'`]/(?:api|web)/""",
        "".join(path.read_text(encoding="utf-8") for path in FILES if path.suffix != ".ico"),
    )
    assert "innerHTML" not in "".join(MODULES.values())
