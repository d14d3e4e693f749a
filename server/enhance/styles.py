"""Style cards for inspiration: which one a prompt gets, and what it adds to the prompt's words."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.enhance.files import UnusableFileError, read_text
from server.enhance.language import MAX_TOKENS, estimated_tokens, is_chinese

BUILT_IN = Path(__file__).resolve().parents[2] / "configs" / "inspiration" / "styles.toml"

MAX_BYTES = 1_048_576
"""Limit of a file."""

MAX_STYLES = 1000

_STRIDE = 7919
"""Neighbouring seeds get cards that are far from each other. A prime: of `n` consecutive seeds no two get the same."""

_Text = Annotated[str, Field(min_length=1, max_length=200)]

# a style is named without any card's name, too
_NAMES_STYLE = re.compile(r"\b(?:style|styled|aesthetic)\b|风格|画风", re.IGNORECASE)


class Look(BaseModel):
    """A style in the words of one language."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: _Text
    light: _Text
    palette: _Text
    lens: _Text
    mood: _Text


class Style(BaseModel):
    """A style card. A prompt that has one of `names` asks for this style."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    names: list[_Text] = Field(max_length=20)
    en: Look
    zh: Look

    def is_named_in(self, prompt: str) -> bool:
        """Whether a prompt asks for this style by one of its names."""
        return any(_name(name).search(prompt) for name in self.names)


class Styles:
    """The cards, in the order of their file."""

    def __init__(self, styles: Sequence[Style]) -> None:
        self._styles = list(styles)
        self._by_id = {style.id: style for style in styles}

    def chosen(self, prompt: str, seed: int) -> Style:
        """The card of a prompt with a seed: one that the prompt names, if it names any."""
        named = [style for style in self._styles if style.is_named_in(prompt)]
        among = named or self._styles
        return among[seed * _STRIDE % len(among)]

    def of(self, id_: str) -> Style | None:
        """The card of that id; None if the file no longer has it."""
        return self._by_id.get(id_)

    @classmethod
    def read(cls, own: Path | None = None) -> "Styles":
        """Read the built-in file, or the operator's own. Raises UnusableFileError."""
        path = own or BUILT_IN
        try:
            listed = _Cards.model_validate(tomllib.loads(read_text(path, MAX_BYTES))).style
        except tomllib.TOMLDecodeError as error:
            raise UnusableFileError(f"{path}: is not TOML: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise UnusableFileError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        if len({style.id for style in listed}) < len(listed):
            raise UnusableFileError(f"{path}: two cards have the same id")
        return cls(listed)


class _Cards(BaseModel):
    model_config = ConfigDict(extra="forbid")

    style: list[Style] = Field(min_length=1, max_length=MAX_STYLES)


def inspired(prompt: str, style: Style, max_chars: int) -> str | None:
    """A prompt with a card's words behind it, in its own language. A style that it names stays the only one.

    None if that is longer than a prompt may be, or than the models read.
    """
    chinese = is_chinese(prompt)
    look = style.zh if chinese else style.en
    parts = [look.light, look.palette, look.lens, look.mood if chinese else f"{look.mood} mood"]
    if not names_style(prompt, style):
        parts = [look.form, *parts]
    words = ("，" if chinese else ", ").join(parts)
    own = prompt.rstrip()
    if own[-1:] not in tuple(".!?。！？…"):
        own += "。" if chinese else "."
    whole = f"{own}{words}。" if chinese else f"{own} {words[0].upper()}{words[1:]}."
    return None if len(whole) > max_chars or estimated_tokens(whole) > MAX_TOKENS else whole


def names_style(prompt: str, style: Style) -> bool:
    """Whether a prompt says itself in which style its video is."""
    return style.is_named_in(prompt) or _NAMES_STYLE.search(prompt) is not None


def card(prompt: str, style: Style, *, begins_with_image: bool) -> str:
    """A card for a language model, in the prompt's language."""
    chinese = is_chinese(prompt)
    look = style.zh if chinese else style.en
    names = (
        ("艺术形式", "光线", "色彩", "镜头", "氛围") if chinese else ("art form", "light", "palette", "lens", "mood")
    )
    values = (look.form, look.light, look.palette, look.lens, look.mood)
    lines = [f"- {name}{'：' if chinese else ': '}{value}" for name, value in zip(names, values, strict=True)]
    if begins_with_image:
        lines.append("- 视频以一张图片开头" if chinese else "- the video begins with an image")
    return "\n".join(["风格卡" if chinese else "Style card", "", *lines])


def _name(name: str) -> "re.Pattern[str]":
    # words of an alphabet are whole ones; Chinese has no spaces between words
    edge = r"\b" if name.isascii() else ""
    return re.compile(rf"{edge}{re.escape(name)}{edge}", re.IGNORECASE)
