"""Output to any terminal, and arguments from it: its encoding may lack characters, and its bytes may be no text.

Text from elsewhere, such as prompts and errors, is never markup or control codes there.
"""

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., Any])

_PLAIN = {"✓": "OK", "✗": "FAILED", "…": "...", "–": "-", "—": "-", "×": "x", "‘": "'", "’": "'", "“": '"', "”": '"'}
"""What stands for the symbols of our sentences where they cannot be printed. Other characters are escaped."""

_OF_OUTPUT = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "its disk quota is used up",
    errno.EIO: "its device fails",
}


def print_anything() -> None:
    """Have stdout and stderr print any text, with replacements for what their encoding lacks."""
    codecs.register_error("paddock", _replace)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="paddock")  # type: ignore[union-attr]


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end


def end_output(error: OSError) -> bool:
    """Drop what is left to print and say why, if printing failed with this error; a reader that has gone knows why."""
    if error.filename is not None or error.errno not in {*_OF_OUTPUT, errno.EPIPE}:
        return False
    # whatever is buffered would fail again when the interpreter ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if (why := _OF_OUTPUT.get(error.errno)) is not None:
        sys.stderr.write(f"The output could not be written: {why}.\n")
    return True


def takes_text(command: Command) -> Command:
    """A command whose arguments, besides paths, are text: those in UTF-8 always, whatever the locale says.

    It exits with a sentence if one is not text.
    """

    @wraps(command)
    def call(**arguments: Any) -> Any:
        return command(**{name: _text(name, value) for name, value in arguments.items()})

    return call  # type: ignore[return-value]


def _text(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_text(name, each) for each in value]
    if type(value) is not str:
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(value).decode()
        except UnicodeError:
            from server.cli.options import refuse

            refuse(f"{name}: {value!a} is not text in UTF-8.")
    return value


def printable(text: str) -> str:
    """Return a text in which a space stands for each character that is not printable, such as those of ANSI codes."""
    return "".join(character if character.isprintable() else " " for character in text)


def qr_code(text: str, encoding: str, columns: int) -> str | None:
    """Return lines that show a QR code, white on black; None if they are too wide or the encoding lacks half blocks."""
    # only here: no other command needs it
    import segno

    drawn = io.StringIO()
    segno.make_qr(text, error="l").terminal(drawn, border=2, compact=True)
    lines = drawn.getvalue().splitlines()
    try:
        "▀▄█".encode(encoding)
    except UnicodeEncodeError:
        return None
    if len(lines[0]) > columns or os.environ.get("TERM", "dumb") == "dumb":
        return None
    # with colors of its own it is not inverted where the terminal is light
    return "\n".join(f"\x1b[97;40m{line}\x1b[0m" for line in lines)


def plain(text: str) -> str:
    """Return a printable text whose square brackets are no markup of Rich."""
    from rich.markup import escape

    return escape(printable(text))
