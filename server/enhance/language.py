"""What the characters of a prompt tell: whether it is Chinese, what it quotes, and about how many tokens it has."""

import re

MAX_TOKENS = 512
"""So many tokens of a prompt Wan's models read."""

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_WORD = re.compile(r"[^\W\d_]+")

_QUOTED = re.compile(
    # a mark behind a letter or a digit is an apostrophe or inches, and begins nothing
    r'(?<!\w)"([^"\n]+)"'
    r"|“([^“”\n]+)”"
    r"|„([^„“”\n]+)[“”]"
    r"|«([^«»\n]+)»"
    r"|「([^「」\n]+)」"
    r"|『([^『』\n]+)』"
    r"|《([^《》\n]+)》"
    r"|(?<!\w)‘([^‘’\n]+)’(?!\w)"
    r"|(?<!\w)'([^'\n]+)'(?!\w)"
)

_LETTERS_OF_A_TOKEN = 3
_IN_WORDS = re.compile(r"[^\W\d_]+|\d|\S")
_TOKENS_OF_A_SIGN = 2
_MARGIN = 8
"""One token more for so many, as some words and signs have more tokens than others."""


def is_chinese(text: str) -> bool:
    """Whether a text is Chinese. What it quotes is left out: that stays in its language, whatever the rest is in.

    Japanese and Korean are not, although they may have Chinese characters.
    """
    outside = _QUOTED.sub(" ", text)
    considered = outside if _WORD.search(outside) else text
    han, kana = len(_HAN.findall(considered)), len(_KANA.findall(considered))
    # a Chinese text may have a sign or two of Japanese
    if not han or kana * 5 > han or len(_HANGUL.findall(considered)) * 5 > han:
        return False
    others = sum(_HAN.search(word) is None for word in _WORD.findall(considered))
    return han >= 2 * others


def quotations(text: str) -> list[str]:
    """What a text quotes, without the marks around."""
    return [next(part for part in match if part) for match in _QUOTED.findall(text)]


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has with its end, rather too many than too few.

    It stands in for a tokenizer that is not on this machine, by characters: UMT5's has a token for three or more
    letters of an alphabet, for one or more of Chinese, Japanese and Korean, and several for what it does not know.
    """
    # where it begins, and its end
    count = 2
    for part in _IN_WORDS.findall(text):
        syllables = len(_HAN.findall(part)) + len(_KANA.findall(part)) + len(_HANGUL.findall(part))
        if part.isascii() and not part.isalpha():
            count += 1
        elif part.isalpha():
            count += syllables - (syllables - len(part)) // _LETTERS_OF_A_TOKEN
        else:
            count += 1 if part in "，。、；：？！“”‘’（）《》—–" else _TOKENS_OF_A_SIGN
    return count + count // _MARGIN
