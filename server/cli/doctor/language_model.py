"""Asks the language model that enhances prompts, if there is one behind an endpoint."""

import asyncio
import time
from collections.abc import Iterator

from server.cli.doctor.finding import Finding, fail, ok, warn
from server.core.settings.settings import Settings
from server.enhance.backend import ModelDownError, Question
from server.enhance.configured import EnhanceSettingsError, configured_rewriter, configured_styles
from server.enhance.guards import UnfitAnswerError

_QUESTION = Question("Answer with one word.", "Hello", seed=0)


def language_model(settings: Settings, *, asks: bool = True) -> Iterator[Finding]:
    """Judge the settings of the language model, and ask an endpoint if it `asks`; a local model is not loaded."""
    about = "language model"
    try:
        rewriter = configured_rewriter(settings)
        configured_styles(settings)
    except EnhanceSettingsError as error:
        yield fail(about, str(error))
        return
    if rewriter is None or not asks:
        return
    name = rewriter.model.model
    if settings.enhance_folder is not None:
        yield ok(about, f"{name} is in {settings.enhance_folder.parent}.")
        return
    began = time.monotonic()
    try:
        asyncio.run(rewriter.model.ask(_QUESTION))
    except ModelDownError as error:
        yield warn(about, f"The endpoint {settings.enhance_url} {error}: prompts of {name} are not enhanced.")
    except UnfitAnswerError as error:
        yield warn(about, f"{name} answers, but its answer {error}.")
    else:
        yield ok(about, f"{name} answered after {time.monotonic() - began:.1f} s.")
