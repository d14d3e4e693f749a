"""Has prompts rewritten: what is asked for each generation, and what comes back as sentences for its sender."""

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.core.files import opened
from pipelines.core.request import MAX_SEED
from server.core.errors import InvalidParamsError, UnavailableError, reason
from server.core.generation import Enhancement, Generation, with_words
from server.core.settings.sections import EnhanceSettings, IfDown
from server.enhance.backend import ModelDownError
from server.enhance.configured import SETTINGS, configured_styles, prompt_rewriter
from server.enhance.rewriter import Rewrite, SeenImage, Wish
from server.enhance.styles import Style, inspired
from server.media.limits import RefusedInputError
from server.media.process import run_child
from server.service.enhancing.tokens import TokenCounter
from server.service.record_limits import RewriteLimit
from server.service.requests.parameters import random_seed
from server.service.requests.values.numbers import as_integer
from server.storage.files.inputs import Inputs, input_key

log = logging.getLogger("paddock.enhance")

RETRY_AFTER = 30

_PARAMETERS = ("prompt", "model", "seed")


@dataclass(frozen=True, slots=True)
class EnhancedPrompt:
    """The prompt that a request asked to have rewritten, and what became of it; `prompt` again if nothing did."""

    prompt: str
    enhanced_prompt: str
    model: str
    seconds: float
    warnings: tuple[str, ...] = ()


class CannotEnhanceError(Exception):
    """A generation fails, for its prompt was not rewritten; `str()` is a sentence for its sender."""


class Prompts:
    """Has prompts rewritten as the settings say. `limit` counts what is asked of it."""

    def __init__(
        self, settings: EnhanceSettings, max_chars: int, inputs: Inputs, tokens: TokenCounter, *, demo: bool = False
    ) -> None:
        self._settings = settings
        self._max_chars = max_chars
        self._tokens = tokens
        self._inputs = inputs
        self._rewriter = prompt_rewriter(settings, demo=demo)
        self.styles = configured_styles(settings)
        self.limit = RewriteLimit(settings.enhance_per_hour)

    @property
    def is_configured(self) -> bool:
        """Whether prompts can be rewritten."""
        return self._rewriter is not None

    @property
    def takes_styles(self) -> bool:
        """Whether prompts can be rewritten in the style of a card."""
        return self._rewriter is not None and self._rewriter.takes_styles

    async def start(self) -> None:
        """Load the language model, if it is one of this machine."""
        if self._rewriter is not None:
            await self._rewriter.start()

    async def close(self) -> None:
        """End what was started for the language model."""
        if self._rewriter is not None:
            await self._rewriter.close()

    async def of(self, generations: list[Generation], *, must_end: bool = True) -> list[Generation]:
        """Generations of one request that await their prompt, with the prompt that they are made of.

        Raises CannotEnhanceError, also (unless it `must_end` now) where the original would do without a model.
        """
        first = generations[0]
        assert first.params is not None, "a generation without valid parameters awaits nothing"
        assert first.enhancement is not None, "it awaits its prompt"
        begins = first.params.image or first.params.extends
        style = self._style(first.params.prompt, first.enhancement)
        if style is not None and self.is_configured and not self.takes_styles:
            # it was recorded by a server with a language model
            why = f"The prompt was not rewritten: this server has no language model ({SETTINGS})."
            return [self._without(each, why, style) for each in generations]
        wish = Wish(
            tenant=first.tenant,
            prompt=first.params.prompt,
            seed=first.enhancement.seed,
            begins=begins is not None,
            image=self._seen(first.tenant, first.params.image),
            style=style,
            count=self._tokens.of(first.model),
        )
        try:
            made = await self._rewritten(wish)
        except UnavailableError as error:
            if self._settings.enhance_if_down is IfDown.FAIL or not must_end:
                raise CannotEnhanceError(str(error)) from error
            return [self._without(each, str(error), style) for each in generations]
        if made.prompt is None:
            return [self._without(each, _unfit(made), style) for each in generations]
        return [_with(each, made.prompt, made, style) for each in generations]

    def _style(self, prompt: str, enhancement: Enhancement) -> Style | None:
        """The style of a generation; another one if its card has been removed."""
        if enhancement.style is None:
            return None
        return self.styles.of(enhancement.style) or self.styles.chosen(prompt, enhancement.seed)

    def _without(self, generation: Generation, why: str, style: Style | None) -> Generation:
        """A generation that is made of the original, or of that with the words of a style card."""
        assert generation.params is not None
        assert generation.enhancement is not None
        words = None if style is None else inspired(generation.params.prompt, style, self._max_chars)
        used = "The original was used." if words is None else "The words of its style were added instead."
        enhancement = replace(generation.enhancement, style=None if style is None or words is None else style.id)
        warnings = (*generation.warnings, f"{why} {used}")
        ready = replace(generation, awaited_input=None, enhancement=enhancement, warnings=warnings)
        return ready if words is None else with_words(ready, words)

    async def enhance(self, tenant: str, body: Mapping[str, Any], model: str) -> EnhancedPrompt:
        """Rewrite the prompt of a body for a model. Raises InvalidParamsError, QueueFullError or UnavailableError."""
        prompt, seed = self._checked(body)
        self.limit.add(tenant)
        made = await self._rewritten(Wish(tenant, prompt, seed, count=self._tokens.of(model)))
        warnings = _notices(made) if made.prompt is not None else (f"{_unfit(made)} The original was used.",)
        return EnhancedPrompt(prompt, made.prompt or prompt, made.model, round(made.seconds, 3), warnings)

    def _checked(self, body: Mapping[str, Any]) -> tuple[str, int]:
        prompt = body.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InvalidParamsError("prompt must be a string with at least one word")
        if len(prompt) > self._max_chars:
            raise InvalidParamsError(f"prompt must be at most {self._max_chars} characters long")
        seed = random_seed() if body.get("seed") is None else as_integer(body["seed"])
        if seed is None or not 0 <= seed <= MAX_SEED:
            raise InvalidParamsError(f"seed must be an integer between 0 and {MAX_SEED}")
        if unknown := [name for name in body if name not in _PARAMETERS]:
            raise InvalidParamsError(
                f"{unknown[0][:80]!a} is not a parameter here; these are: {', '.join(_PARAMETERS)}"
            )
        if not self.is_configured:
            raise InvalidParamsError(f"This server has no language model. Its operator names one with the {SETTINGS}")
        return prompt, seed

    async def _rewritten(self, wish: Wish) -> Rewrite:
        if self._rewriter is None:
            # there was a model when the generation was recorded
            raise UnavailableError(f"The prompt was not enhanced: this server has no language model ({SETTINGS}).")
        try:
            made = await self._rewriter.rewrite(wish)
        except ModelDownError as error:
            sentence = f"The prompt was not enhanced: the {self._rewriter.place} {error}."
            raise UnavailableError(sentence, RETRY_AFTER) from error
        if made.prompt is not None and len(made.prompt) > self._max_chars:
            return replace(made, prompt=None, reason=f"is longer than the {self._max_chars} characters of a prompt")
        return made

    def _seen(self, tenant: str, digest: str | None) -> SeenImage | None:
        if digest is None or not self._settings.enhance_sees_image:
            return None
        return SeenImage(digest, partial(self._small_copy, tenant, digest))

    async def _small_copy(self, tenant: str, digest: str) -> bytes | None:
        try:
            with tempfile.TemporaryDirectory(prefix="seen-", ignore_cleanup_errors=True) as folder:
                source, target = Path(folder) / "kept", Path(folder) / "small"
                async with opened(source, "wb") as file:
                    async for chunk in self._inputs.storage.open(input_key(tenant, digest)):
                        await asyncio.to_thread(file.write, chunk)
                await run_child("server.media.pictures.shrink_image", str(source), str(target))
                return await asyncio.to_thread(target.read_bytes)
        except (OSError, RefusedInputError, UnavailableError) as error:
            # the words alone can be rewritten, too
            said = reason(error) if isinstance(error, OSError) else str(error)
            log.warning("a language model does not see an image: %s", said)
            return None


def _with(generation: Generation, prompt: str, made: Rewrite, style: Style | None) -> Generation:
    """A generation that is made of a rewritten prompt."""
    ready = with_words(generation, prompt)
    assert ready.enhancement is not None
    enhancement = replace(
        ready.enhancement,
        model=made.model,
        seconds=round(made.seconds, 3),
        style=None if style is None else style.id,
    )
    return replace(ready, awaited_input=None, enhancement=enhancement, warnings=(*ready.warnings, *_notices(made)))


def _notices(made: Rewrite) -> tuple[str, ...]:
    return () if made.notice is None else (made.notice,)


def _unfit(made: Rewrite) -> str:
    return f"The prompt was not enhanced: {made.by} {made.reason}."
