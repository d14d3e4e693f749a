"""Text from elsewhere, such as prompts and errors, made safe for a terminal: it is never markup or control codes."""

from rich.markup import escape


def printable(text: str) -> str:
    """Return a text in which a space stands for each character that is not printable, such as those of ANSI codes."""
    return "".join(character if character.isprintable() else " " for character in text)


def plain(text: str) -> str:
    """Return a printable text whose square brackets are no markup of Rich."""
    return escape(printable(text))
