"""Rewrites prompts: asks the language model, judges its answer, asks once more if need be, and remembers."""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol
from weakref import WeakValueDictionary

from server.core.circuit_breaker import CircuitBreaker, Health, Tolerance
from server.core.turns import Turns
from server.enhance.backend import LanguageModel, ModelDownError, Question
from server.enhance.guards import UnfitAnswerError, checked
from server.enhance.language import MAX_TOKENS, estimated_tokens
from server.enhance.styles import Style, card
from server.enhance.system_prompts import SystemPrompts, Task

log = logging.getLogger("paddock.enhance")

MAX_AT_ONCE = 4
MAX_AT_ONCE_OF_TENANT = 2
"""So many questions are open at once, in all and for one tenant."""

MAX_REMEMBERED = 1000
"""So many rewritten prompts are remembered, each of a few kilobytes."""

TOLERANCE = Tolerance(failures=3, cooldown=15.0)
"""When a model that keeps its askers waiting for nothing is given a rest."""

_PAUSE_SECONDS = 1.0

_SLOW_SECONDS = 2.0
"""What fails sooner costs nobody time, and may be the fault of its prompt."""

_FREER = 1.0
"""The temperature of inspiration."""


Count = Callable[[str], Awaitable[int | None]]
"""Counts the tokens of a prompt; None if it cannot."""


@dataclass(frozen=True, slots=True)
class SeenImage:
    """An image that the model may see: its digest, and what makes a small JPEG file of it, or None if it cannot."""

    digest: str
    read: Callable[[], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class Wish:
    """A prompt that a tenant wants to have rewritten. Another seed may give other words.

    `begins`: the video begins with an image, which `image` lets the model see. A `style` has it rewritten freely.
    `count` counts tokens as the model does that the prompt is for; without it they are estimated.
    """

    tenant: str
    prompt: str
    seed: int
    begins: bool = False
    image: SeenImage | None = None
    style: Style | None = None
    count: Count | None = None


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What came of a wish: the new prompt, or None and the reason, as the end of a sentence about `by`.

    `notice` is a sentence that whoever gets the prompt is to know.
    """

    prompt: str | None
    model: str
    seconds: float
    reason: str | None = None
    by: str = "the language model's answer"
    notice: str | None = None


class PromptRewriter(Protocol):
    """Rewrites prompts."""

    @property
    def place(self) -> str:
        """What sentences call it."""

    @property
    def takes_styles(self) -> bool:
        """Whether it writes in the style of a card."""

    async def start(self) -> None:
        """Make it ready, as far as this server can."""

    async def rewrite(self, wish: Wish) -> Rewrite:
        """Rewrite a prompt. Raises ModelDownError."""

    async def close(self) -> None:
        """End what this server has started for it."""


class Rewriter:
    """Rewrites prompts with a language model."""

    takes_styles = True

    def __init__(self, model: LanguageModel, prompts: SystemPrompts) -> None:
        self.model = model
        self._prompts = prompts
        self._turns = Turns(MAX_AT_ONCE, MAX_AT_ONCE_OF_TENANT)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._known: OrderedDict[str, Rewrite] = OrderedDict()
        self._circuit = CircuitBreaker(TOLERANCE)

    @property
    def place(self) -> str:
        """Where the model is."""
        return self.model.place

    async def start(self) -> None:
        """Load a model of this machine."""
        await self.model.start()

    async def close(self) -> None:
        """End the process of a model of this machine."""
        await self.model.close()

    async def rewrite(self, wish: Wish) -> Rewrite:
        """Rewrite a prompt, or recall how it was rewritten before. Raises ModelDownError."""
        system = self._system(wish)
        seen = None if wish.image is None else wish.image.digest
        # of its tenant only: how long it takes would tell what others asked
        facts = (wish.tenant, self.model.model, system, wish.prompt, wish.seed, seen)
        # prompts may be long
        key = hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
            async with self._turns.turn(wish.tenant):
                made = await self._ask_if_up(key, wish, system)
            if made.prompt is not None:
                self._known[key] = made
                while len(self._known) > MAX_REMEMBERED:
                    self._known.popitem(last=False)
            return made

    async def _ask_if_up(self, key: str, wish: Wish, system: str) -> Rewrite:
        """Ask, unless the last ones all waited for nothing: what waits behind them would wait as long, one by one."""
        if self._circuit.health is Health.UNHEALTHY:
            raise ModelDownError(f"{self._circuit.reason}, and is asked again in {ceil(self._circuit.wait)} seconds")
        began = time.monotonic()
        try:
            made = await self._ask(wish, system)
        except ModelDownError as error:
            if time.monotonic() - began > _SLOW_SECONDS:
                self._circuit.failed(key, str(error))
            raise
        self._circuit.succeeded()
        return made

    def _system(self, wish: Wish) -> str:
        if wish.style is None:
            return self._prompts.of(Task.IMAGE if wish.begins else Task.TEXT, wish.prompt)
        text = self._prompts.of(Task.INSPIRATION, wish.prompt)
        return f"{text}\n\n{card(wish.prompt, wish.style, begins_with_image=wish.begins)}"

    async def _ask(self, wish: Wish, system: str) -> Rewrite:
        began = time.monotonic()
        image = None if wish.image is None else await wish.image.read()
        reason = None
        for attempt in range(2):
            # of the same seed the same answer could come again
            question = Question(system, wish.prompt, wish.seed + attempt, image)
            if wish.style is not None:
                question = replace(question, temperature=_FREER)
            try:
                prompt = checked(wish.prompt, await self.model.ask(question))
                await _check_length(prompt, wish.count)
            except UnfitAnswerError as error:
                reason = str(error)
                log.info("an answer of %s %s", self.model.model, reason)
            except ModelDownError as error:
                log.warning("the %s %s %s", self.model.place, self.model.model, error)
                if attempt or not error.may_pass:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return Rewrite(prompt, self.model.model, time.monotonic() - began)
        return Rewrite(None, self.model.model, time.monotonic() - began, reason)


async def _check_length(prompt: str, count: Count | None) -> None:
    tokens = None if count is None else await count(prompt)
    if (estimated_tokens(prompt) if tokens is None else tokens) > MAX_TOKENS:
        raise UnfitAnswerError(f"has more than the {MAX_TOKENS} tokens that the models read")
