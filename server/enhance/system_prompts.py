"""The texts that tell a language model how to rewrite prompts: a file for each language and task."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

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


class SystemPromptError(Exception):
    """A file cannot be used; `str()` is a sentence that names it."""


class SystemPrompts:
    """The texts by task and language: Chinese for Chinese prompts, English for all others."""

    def __init__(self, texts: Mapping[tuple[Task, bool], str]) -> None:
        self._texts = texts

    def of(self, task: Task, prompt: str) -> str:
        """The text for a prompt."""
        return self._texts[task, is_chinese(prompt)]

    @classmethod
    def read(cls, own: Path | None = None) -> "SystemPrompts":
        """Read the built-in files, or those of the same names in a folder of the operator. Raises SystemPromptError."""
        if own is not None and not own.is_dir():
            raise SystemPromptError(f"{own}: no such folder of prompts (setting enhance_prompts_dir)")
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
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig").strip()
    except OSError as error:
        raise SystemPromptError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SystemPromptError(f"{path}: is not text in UTF-8") from error
    if len(content) > MAX_BYTES or not text:
        raise SystemPromptError(f"{path}: must have text, and at most {MAX_BYTES} bytes")
    return text
