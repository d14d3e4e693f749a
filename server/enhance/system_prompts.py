"""The texts that tell a language model how to rewrite prompts: a file for each language and task."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from server.enhance.files import UnusableFileError, read_text
from server.enhance.language import is_chinese

BUILT_IN = Path(__file__).resolve().parents[2] / "configs" / "prompts"

MAX_BYTES = 65_536
"""Limit of a file."""


class Task(StrEnum):
    """How a prompt is rewritten: for a video made of words alone, for one that begins with an image, or freely."""

    TEXT = "text"
    IMAGE = "image"
    INSPIRATION = "inspiration"
    """Either, with a style card behind the text."""


_LANGUAGES = {False: "en", True: "zh"}


class SystemPrompts:
    """The texts by task and language: Chinese for Chinese prompts, English for all others."""

    def __init__(self, texts: Mapping[tuple[Task, bool], str]) -> None:
        self._texts = texts

    def of(self, task: Task, prompt: str) -> str:
        """The text for a prompt."""
        return self._texts[task, is_chinese(prompt)]

    @classmethod
    def read(cls, own: Path | None = None) -> "SystemPrompts":
        """Read the built-in files, or those of the same names in a folder of the operator. Raises UnusableFileError."""
        if own is not None and not own.is_dir():
            raise UnusableFileError(f"{own}: no such folder of prompts (setting enhance_prompts_dir)")
        texts = {}
        for task in Task:
            for chinese, language in _LANGUAGES.items():
                name = f"{task}.{language}.md"
                path = BUILT_IN / name
                if own is not None and (own / name).exists():
                    path = own / name
                texts[task, chinese] = _read(path)
        return cls(texts)


def _read(path: Path) -> str:
    text = read_text(path, MAX_BYTES).strip()
    if not text:
        raise UnusableFileError(f"{path}: must have text")
    return text
