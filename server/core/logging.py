"""Configures logging: plain text, or one JSON object per line for log collectors.

A line about a generation has the generation's id and attempt as fields (`ids`). Prompts and API keys are never logged
above debug level, except for the key that a server creates at its first start, which is logged once.
"""

import logging
from enum import StrEnum
from typing import Any

from pythonjsonlogger.json import JsonFormatter

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}


class LogFormat(StrEnum):
    """The format of the log."""

    TEXT = "text"
    JSON = "json"


def configure(level: str, form: LogFormat) -> None:
    """Set up the root logger to write to stderr."""
    handler = logging.StreamHandler()
    if form is LogFormat.JSON:
        handler.setFormatter(JsonFormatter(_TEXT, rename_fields=_NAMES))
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=level.upper())


def ids(generation_id: str, attempt: int) -> dict[str, Any]:
    """Return the fields of a log line about a generation, for logging's `extra`."""
    return {"generation": generation_id, "attempt": attempt}
