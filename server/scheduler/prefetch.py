"""Has the prompts of the next generation encoded while the current one denoises, so that the next starts sooner."""

import logging
from collections.abc import Callable, Coroutine

from sqlalchemy.exc import SQLAlchemyError

from pipelines.core.request import VideoParams
from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation
from server.scheduler.device import Device
from server.storage.db.statements.attempts import Attempts

log = logging.getLogger("paddock.prefetch")

FROM = 0.4
"""The share of a generation after which the queue is looked at: late, so that few are submitted that come before what
is found, and early enough that a generation of two steps has one left."""


class PromptPrefetcher:
    """Looks at the queue for one device, once in a generation; again after news, for as long as it found nothing.

    `in_background` starts a task.
    """

    def __init__(
        self, attempts: Attempts, device: Device, in_background: Callable[[Coroutine[None, None, None]], None]
    ) -> None:
        self._attempts = attempts
        self._device = device
        self._in_background = in_background
        self._has_news = False
        self._is_settled = False

    def begin(self) -> None:
        """Another generation runs now."""
        self._has_news, self._is_settled = True, False

    def note_news(self) -> None:
        """The queue has changed."""
        self._has_news = True

    def note_progress(self, running: Generation, progress: float) -> None:
        """So much (0 … 1) of the running generation is done: look at the queue if it is time to."""
        if self._has_news and not self._is_settled and progress >= FROM:
            self._has_news, self._is_settled = False, True
            self._in_background(self.look(running))

    async def look(self, running: Generation) -> None:
        """Have the next generation's prompts encoded, if it is for the model that runs."""
        following = await self._following(running)
        if following is None or following.params is None or running.params is None:
            self._is_settled = False
        elif (following.model, following.params.run_fast) == (running.model, running.params.run_fast):
            await self._device.engine.prepare(_prompts(following.params))

    async def _following(self, running: Generation) -> Generation | None:
        try:
            return await self._attempts.next(running.weights, self._device.lacks.exclusions)
        except (RecordsUnavailableError, SQLAlchemyError) as error:
            log.info("prompts are not prefetched, since the queue cannot be read: %s", error)
            return None


def _prompts(params: VideoParams) -> list[str]:
    """The prompts of a request that are encoded."""
    return [params.prompt, params.negative_prompt] if params.is_guided else [params.prompt]
