"""Enriches prompts for the demo's weights without a language model, by the grammar of their captions."""

import time

from pipelines.demo.completion import complete
from server.enhance.language import MAX_TOKENS, estimated_tokens
from server.enhance.rewriter import Rewrite, Wish

NOTICE = "The demo's grammar filled in what the prompt leaves out; this is no language model."


class DemoGrammar:
    """A `PromptRewriter` that asks nobody. Same prompt and seed, same words."""

    name = "demo-grammar"
    place = "demo's grammar"
    takes_styles = False

    async def start(self) -> None:
        """It is ready."""

    async def close(self) -> None:
        """Nothing was started."""

    async def rewrite(self, wish: Wish) -> Rewrite:
        """The prompt with what it leaves out."""
        began = time.monotonic()
        prompt, reason = complete(wish.prompt, wish.seed, begins_with_image=wish.begins), None
        if prompt == wish.prompt:
            reason = "has nothing to add"
        elif estimated_tokens(prompt) > MAX_TOKENS:
            reason = f"can add nothing to a prompt that is nearly as long as the {MAX_TOKENS} tokens that models read"
        return Rewrite(
            None if reason else prompt,
            self.name,
            time.monotonic() - began,
            reason,
            by=f"the {self.place}",
            notice=NOTICE,
        )
