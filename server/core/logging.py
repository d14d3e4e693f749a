"""The log: lines for people, or an object of JSON a line for what collects them.

A line about a generation has its id and attempt beside its words (`ids`). Prompts and keys are in none above debug,
but for a key that a server makes itself, which is shown once.
"""

import logging
from enum import StrEnum
from typing import Any

from pythonjsonlogger.json import JsonFormatter

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}


class LogFormat(StrEnum):
    """How the log is written."""

    TEXT = "text"
    JSON = "json"


def configure(level: str, form: LogFormat) -> None:
    """Write the process's log to stderr."""
    handler = logging.StreamHandler()
    if form is LogFormat.JSON:
        handler.setFormatter(JsonFormatter(_TEXT, rename_fields=_NAMES))
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=level.upper())


def ids(generation_id: str, attempt: int) -> dict[str, Any]:
    """What a line about a generation is found by: logging's `extra`."""
    return {"generation": generation_id, "attempt": attempt}
