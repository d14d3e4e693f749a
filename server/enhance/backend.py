"""What every language model has in common, wherever it runs."""

from dataclasses import dataclass
from typing import Protocol


class ModelDownError(Exception):
    """The language model cannot be used; `str()` says why, as the end of a sentence about it.

    `may_pass`: a later attempt may succeed.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is told and asked. `image` is a JPEG file that it sees. A higher temperature gives freer words."""

    system: str
    prompt: str
    seed: int
    image: bytes | None = None
    temperature: float = 0.7


class LanguageModel(Protocol):
    """Answers questions. `model` is its name, `place` what sentences call it."""

    model: str
    place: str

    async def start(self) -> None:
        """Make it ready, as far as this server can; what fails is tried again for the first question."""

    async def ask(self, question: Question) -> str:
        """The model's answer. Raises ModelDownError, and UnfitAnswerError for one that is too long or not complete."""

    async def close(self) -> None:
        """End what this server has started for it."""
