"""What the requests about many generations, or about their marks, have in their bodies."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from server.core.errors import InvalidParamsError
from server.storage.db.records import Marking
from server.storage.db.statements.library import MAX_TAGS

IDS = "generation_ids"

MAX_IDS = 500
MAX_ARCHIVED = 200
"""So many generations may be marked or deleted at once, and so many be in one archive."""

MAX_ID_CHARS = 100
MAX_TAG_CHARS = 40

# also the separators of lines and paragraphs, which are none of one line
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def ids_of(body: Mapping[str, Any], most: int, *others: str) -> list[str]:
    """The different ids of generations in a body that has nothing else but `others`. Raises InvalidParamsError."""
    _check_names(body, IDS, *others)
    ids = body.get(IDS)
    if not isinstance(ids, list) or not 1 <= len(ids) <= most:
        raise InvalidParamsError(f"{IDS} must be a list of 1 to {most} ids of generations")
    if not all(isinstance(each, str) and 1 <= len(each) <= MAX_ID_CHARS for each in ids):
        raise InvalidParamsError(f"{IDS} must be strings of 1 to {MAX_ID_CHARS} characters")
    return [*dict.fromkeys(ids)]


def marking_of_one(body: Mapping[str, Any]) -> Marking:
    """How a body has one generation marked. Raises InvalidParamsError."""
    _check_names(body, "favourite", "tags")
    _check_any(body, "favourite", "tags")
    return Marking(favourite=_favourite(body), tags=tags_of(body, "tags"))


def marking_of_many(body: Mapping[str, Any]) -> tuple[list[str], Marking]:
    """Which generations a body has marked, and how. Raises InvalidParamsError."""
    names = ("favourite", "add_tags", "remove_tags")
    ids = ids_of(body, MAX_IDS, *names)
    _check_any(body, *names)
    add, remove = (tags_of(body, name) or [] for name in ("add_tags", "remove_tags"))
    return ids, Marking(favourite=_favourite(body), add=add, remove=remove)


def tags_of(body: Mapping[str, Any], name: str) -> list[str] | None:
    """The different tags under a name, without spaces around them; None without any. Raises InvalidParamsError."""
    if name not in body:
        return None
    tags = body[name]
    if not isinstance(tags, list) or len(tags) > MAX_TAGS:
        raise InvalidParamsError(f"{name} must be a list of at most {MAX_TAGS} tags")
    if not all(isinstance(tag, str) for tag in tags):
        raise InvalidParamsError(f"{name} must be strings")
    return [*dict.fromkeys(_tag(tag, name) for tag in tags)]


def _tag(text: str, name: str) -> str:
    tag = text.strip()
    if not 1 <= len(tag) <= MAX_TAG_CHARS:
        raise InvalidParamsError(f"{name}: a tag must have 1 to {MAX_TAG_CHARS} characters, besides spaces around it")
    if _CONTROL.search(tag):
        raise InvalidParamsError(f"{name}: a tag must have no control characters, such as the end of a line")
    return tag


def _favourite(body: Mapping[str, Any]) -> bool | None:
    given = body.get("favourite")
    if "favourite" in body and not isinstance(given, bool):
        raise InvalidParamsError("favourite must be a boolean")
    return given


def _check_any(body: Mapping[str, Any], *names: str) -> None:
    if body.keys().isdisjoint(names):
        raise InvalidParamsError(f"The body must have one of {', '.join(names)}.")


def _check_names(body: Mapping[str, Any], *known: str) -> None:
    """Refuse what is no name of the body: a misspelled one would be lost."""
    if unknown := sorted(_other(body, known)):
        raise InvalidParamsError(f"{unknown[0][:80]!a} is not a name of this body: it may have {', '.join(known)}.")


def _other(body: Mapping[str, Any], known: Collection[str]) -> set[str]:
    return {name for name in body if name not in known}
