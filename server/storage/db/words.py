"""The words of a text: prompts are found by the beginnings of theirs.

A word is a run of letters and digits, in one form for all cases, accents and widths. Scripts that are written without
spaces have no such words: there each pair of adjacent characters is one, and the last character of a run is one by
itself, so that every character begins a word. A symbol such as an emoji is a word, too; punctuation is not.

The words of recorded prompts are in the database: what changes here needs a revision that makes them anew, as 0013 did.
"""

import re
from collections.abc import Iterator
from unicodedata import category, normalize

MAX_WORDS = 1_000
"""So many different words of a prompt are kept. A model reads 512 tokens, which are fewer; the rest of a long prompt
changes no video and would cost more to keep than the prompt.
"""

MAX_CHARACTERS = 64
"""So many characters of a word are kept: longer ones are no language's, and PostgreSQL limits what it can index."""

MAX_TERMS = 200
"""So many different words of a search count. A search has at most 200 characters, but some, such as ㌀, are several."""

# Thai, Lao, Myanmar, Hangul, Khmer, Kana, Bopomofo and Han
_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u19e0-\u19ff\u3005-\u3007\u3021-\u302f\u3031-\u303b"
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\uac00-\ud7ff\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_WITHOUT_SPACES}]+|[^{_WITHOUT_SPACES}]+")
_UNSPACED = re.compile(f"[{_WITHOUT_SPACES}]")


def words(text: str) -> list[str]:
    """The different words of a text in their order, at most MAX_WORDS."""
    # no more of it can be kept, and the form of all characters takes time
    text = text[: MAX_WORDS * (MAX_CHARACTERS + 1)]
    return _different((word for run in _runs(text) for word in _pairs(run, len(run))), MAX_WORDS)


def terms(search: str) -> list[str]:
    """What a search asks for: a text is found if each of these begins one of its words. None for mere punctuation."""
    # a pair already tells that its second character is there
    return _different((term for run in _runs(search) for term in _pairs(run, len(run) - 1)), MAX_TERMS)


def _runs(text: str) -> Iterator[str]:
    """The runs of characters of scripts of one kind, with spaces between words or without."""
    # decomposed again after the case is gone, which composes some characters; composed at last, as the shorter form
    decomposed = normalize("NFKD", normalize("NFKD", text).casefold())
    for run in normalize("NFKC", decomposed.translate(_CHARACTERS)).split():
        if run.isascii():
            yield run
        else:
            yield from _RUN.findall(run)


def _pairs(run: str, count: int) -> Iterator[str]:
    """The first words of a run, at least one; of a script with spaces it is one word."""
    if _UNSPACED.match(run):
        return (run[at : at + 2] for at in range(max(count, 1)))
    return iter((run,))


def _different(found: Iterator[str], most: int) -> list[str]:
    kept: dict[str, None] = {}
    for word in found:
        kept[word[:MAX_CHARACTERS]] = None
        if len(kept) == most:
            break
    return list(kept)


class _Characters(dict[int, str | None]):
    """For `str.translate`: what stands for each character, found out when one is first seen."""

    def __missing__(self, code: int) -> str | None:
        found = _in_words(chr(code))
        # the million rare ones would fill the memory
        if code < 0x10000:
            self[code] = found
        return found


def _in_words(character: str) -> str | None:
    """Itself, or a space for what separates words; None for what is left out, such as accents and invisible ones."""
    if character.isalnum():
        return character
    if (
        "\u0300" <= character <= "\u036f"
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0000" <= character < "\U000f0000"
    ):
        return None
    kind = category(character)
    if kind == "So":
        return f" {character} "
    # marks that are no accents, such as the vowels of Hindi and Thai, are parts of words
    return character if kind[0] == "M" else None if kind == "Cf" else " "


_CHARACTERS = _Characters()
