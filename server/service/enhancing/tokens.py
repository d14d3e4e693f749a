"""Counts the tokens of prompts by the tokenizers of the models, in a process that ends with each count."""

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pipelines.core.errors import PipelineError
from pipelines.hub import local
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import UnavailableError
from server.enhance.rewriter import Count
from server.media.limits import RefusedInputError
from server.media.process import run_child

log = logging.getLogger("paddock.enhance")

_SECONDS = 30.0


class TokenCounter:
    """Counts for the models of a catalogue. `weights_folder` has the weights that all of them use instead, if any."""

    def __init__(self, catalogue: Mapping[str, CatalogueEntry], weights_folder: Path | None) -> None:
        self._catalogue = catalogue
        self._weights_folder = weights_folder

    def of(self, model: str) -> Count:
        """What counts the tokens of a prompt for a model; it gives None if the tokenizer is not on this machine."""
        return partial(self._count, model)

    async def _count(self, model: str, prompt: str) -> int | None:
        tokenizer = await asyncio.to_thread(self._tokenizer, model)
        if tokenizer is None:
            return None
        try:
            with tempfile.TemporaryDirectory(prefix="tokens-", ignore_cleanup_errors=True) as folder:
                text = Path(folder) / "prompt"
                await asyncio.to_thread(text.write_text, prompt, encoding="utf-8")
                arguments = (str(tokenizer), str(text))
                return int((await run_child("pipelines.tools.count_tokens", *arguments, seconds=_SECONDS))["tokens"])
        except (OSError, RefusedInputError, UnavailableError) as error:
            log.warning("the tokens of a prompt are estimated, as %s cannot count them: %s", tokenizer, error)
            return None

    def _tokenizer(self, model: str) -> Path | None:
        entry, folder = self._catalogue.get(model), self._weights_folder
        if folder is None and entry is not None:
            try:
                folder = local.locate(entry.model)
            except PipelineError:
                # the hosts of a cluster have the weights
                return None
        path = None if folder is None else folder / "tokenizer" / "tokenizer.json"
        return path if path is not None and path.is_file() else None
