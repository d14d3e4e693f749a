"""Enriches prompts for the demo's weights without a language model, by the grammar of their captions."""

import re
import time

from pipelines.demo.completion import complete
from server.enhance.language import MAX_TOKENS, estimated_tokens, is_chinese
from server.enhance.rewriter import Rewrite, Wish

NOTICE = "The demo's grammar filled in what the prompt leaves out; this is no language model."

_ENGLISH = re.compile("[A-Za-z]")


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
        language = "zh" if is_chinese(wish.prompt) else "en" if _ENGLISH.search(wish.prompt) else None
        prompt, reason = wish.prompt, None
        if language is not None:
            prompt = complete(wish.prompt, wish.seed, language, begins_with_image=wish.begins)
        if prompt == wish.prompt:
            reason = "has nothing to add"
        elif estimated_tokens(prompt) > MAX_TOKENS:
            reason = f"has no room to add anything within the {MAX_TOKENS} tokens that models read"
        return Rewrite(
            None if reason else prompt,
            self.name,
            time.monotonic() - began,
            reason,
            by=f"the {self.place}",
            notice=NOTICE,
        )
