"""Has the prompts rewritten that recorded generations await."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from server.core.events import Broker
from server.core.generation import ENHANCED_PROMPT, Generation
from server.service.awaiting.work import AwaitedWork, GivenUpError, Job
from server.service.enhancing.prompts import CannotEnhanceError, Prompts
from server.storage.db.statements.awaited_inputs import AwaitedInputs


class AwaitedPrompt(NamedTuple):
    """The prompt that all generations of a request await. `is_ours`: this server decides what they are without it."""

    tenant: str
    request: str
    is_ours: bool

    @property
    def url(self) -> str:
        """What records name it by."""
        return ENHANCED_PROMPT


class PromptWorker(AwaitedWork[AwaitedPrompt]):
    """Rewrites prompts, once for all generations of a request."""

    log = logging.getLogger("paddock.enhance")
    name = "prompt"

    def __init__(
        self, awaited_inputs: AwaitedInputs, prompts: Prompts, broker: Broker, on_arrived: Callable[[], None]
    ) -> None:
        super().__init__(awaited_inputs, broker, on_arrived)
        self._prompts = prompts

    async def _awaited(self) -> Iterable[tuple[AwaitedPrompt, str]]:
        # what others accepted is for those that have a model
        found = await self._awaited_inputs.awaiting_rewrite(has_model=self._prompts.is_configured)
        return [(AwaitedPrompt(each.tenant, each.request, each.is_ours), each.generation_id) for each in found]

    async def _complete(self, job: Job[AwaitedPrompt]) -> Sequence[Generation]:
        waiting = await self._awaited_inputs.awaiting(job.what.url, sorted(job.ids))
        if not waiting:
            return []
        try:
            # the rewriter remembers what was not recorded
            return await self._prompts.of(waiting, must_end=job.what.is_ours)
        except CannotEnhanceError as error:
            # the model of the server that accepted it may be well
            if not job.what.is_ours:
                return []
            raise GivenUpError(str(error)) from error

    def _fault(self, what: AwaitedPrompt) -> str:
        return "The server failed to enhance the prompt. Its log says more."
