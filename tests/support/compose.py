"""Compose files as compose reads them: with the values of their variables, and the image's own environment."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>(?:[^${}]|\$\{\w+\})*))?\}")
_IMAGE_ENVIRONMENT = re.compile(r"^ENV ((?:.*\\\n)*.*)$", re.MULTILINE)


def filled(text: str, given: dict[str, str]) -> str:
    """A compose file's text with its variables, as compose fills them in. Raises KeyError for one that is required."""

    def value(found: re.Match[str]) -> str:
        if found["name"] in given:
            return given[found["name"]]
        if found["kind"] == "-":
            return filled(found["rest"], given)
        raise KeyError(found["name"])

    return _VARIABLE.sub(value, text)


def composed(file: str, given: dict[str, str]) -> dict[str, Any]:
    """The content of a compose file with its variables filled in, and its merged parts merged."""
    return dict(yaml.safe_load(filled((ROOT / file).read_text(encoding="utf-8"), given)))


def image_environment() -> dict[str, str]:
    """The variables that the Dockerfile sets."""
    (listed,) = _IMAGE_ENVIRONMENT.findall((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    return dict(each.split("=", 1) for each in listed.replace("\\\n", " ").split())
