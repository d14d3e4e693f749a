"""Text from elsewhere is neither markup nor control codes on a terminal."""

import io

import pytest
from rich.console import Console

from server.cli.terminal import plain, printable, qr_code

HOSTILE = [
    "[/b] [bold]x[/]",
    "[link=https://a.b]x",
    "\x1b[2J\x1b]0;title\x07",
    "a\rb\nc\td",
    "\x00\x9b31m",
    "x\u202eevil",
    "\\[/]",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_it_is_shown_as_it_is_without_control_codes(text: str) -> None:
    shown = io.StringIO()
    Console(file=shown, force_terminal=True, color_system="truecolor", width=200, highlight=False).print(plain(text))

    assert shown.getvalue().rstrip() == printable(text).rstrip()
    assert all(character.isprintable() for character in printable(text))
    assert len(printable(text)) == len(text)


def test_text_of_all_scripts_is_kept() -> None:
    assert printable("An ox 湖边的牛 🐂 é") == "An ox 湖边的牛 🐂 é"


def test_a_qr_code_has_colors_of_its_own_and_fits_or_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    code = qr_code("http://192.168.1.23:8000/", "utf-8", 80)
    assert code is not None
    lines = code.splitlines()
    assert all(line.startswith("\x1b[97;40m") and line.endswith("\x1b[0m") for line in lines)
    width = len(lines[0]) - len("\x1b[97;40m\x1b[0m")
    assert qr_code("http://192.168.1.23:8000/", "utf-8", width) == code

    assert qr_code("http://192.168.1.23:8000/", "utf-8", width - 1) is None
    assert qr_code("http://192.168.1.23:8000/", "latin-1", 80) is None
    monkeypatch.delenv("TERM")
    assert qr_code("http://192.168.1.23:8000/", "utf-8", 80) is None
