"""Text from elsewhere is neither markup nor control codes on a terminal."""

import io

import pytest
from rich.console import Console

from server.cli.terminal import plain, printable

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
