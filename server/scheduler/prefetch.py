"""What comes next, told to a device while it denoises, so that it need not wait for the prompt's encoding."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from pipelines.core.request import VideoParams
from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation
from server.engine.interface import Engine
from server.storage.db.statements.attempts import Attempts

log = logging.getLogger("paddock.prefetch")

FROM = 0.4
"""From this share of a generation on it is looked for what follows: late, so that little comes before it any more, and
early enough for one of two steps to be left."""


class PromptPrefetcher:
    """Looks at the queue for one device, once in a generation; again after news, for as long as it found nothing."""

    def __init__(self, attempts: Attempts, engine: Engine) -> None:
        self._attempts = attempts
        self._engine = engine
        self._has_news = False
        self._is_settled = False

    def begin(self) -> None:
        """Another generation runs now."""
        self._has_news, self._is_settled = True, False

    def note_news(self) -> None:
        """Something was queued."""
        self._has_news = True

    def falls_due(self, progress: float) -> bool:
        """Whether to look now, with so much (0 … 1) of the generation done; it is then taken to be done."""
        if not self._has_news or self._is_settled or progress < FROM:
            return False
        self._has_news, self._is_settled = False, True
        return True

    async def look(self, running: Generation) -> None:
        """Have the prompts of what follows prepared, if it is for the model that runs."""
        following = await self._following(running)
        if following is None or following.params is None or running.params is None:
            self._is_settled = False
        elif (following.model, following.params.run_fast) == (running.model, running.params.run_fast):
            await self._engine.prepare(_prompts(following.params))

    async def _following(self, running: Generation) -> Generation | None:
        try:
            return await self._attempts.next(running.model)
        except (RecordsUnavailableError, SQLAlchemyError) as error:
            log.info("what follows cannot be looked at: %s", error)
            return None


def _prompts(params: VideoParams) -> list[str]:
    """What of a request is encoded."""
    return [params.prompt, params.negative_prompt] if params.is_guided else [params.prompt]
