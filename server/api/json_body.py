"""Request bodies: a JSON object that can be stored in both databases and sent on."""

import json
from typing import Any, NoReturn

from server.core.errors import InvalidParamsError

MAX_DEPTH = 64
"""Limit of objects and arrays within each other."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises InvalidParamsError.

    PostgreSQL cannot search a text with NUL, so U+FFFD, the replacement character, stands for it.
    """
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise _invalid() from error
    if _is_too_deep(body):
        raise _too_deep()
    try:
        # half a surrogate pair and 1e999 can be parsed, but not stored or serialized
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        text.encode()
        if "\\u0000" in text:
            body = _without_nul(body)
    except ValueError as error:
        raise _invalid() from error
    if not isinstance(body, dict):
        raise InvalidParamsError("The body must be a JSON object.")
    return body


def _is_too_deep(body: Any) -> bool:
    level = [body]
    for _ in range(MAX_DEPTH):
        children = (
            each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)
        )
        level = [child for some in children for child in some if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _too_deep() -> InvalidParamsError:
    return InvalidParamsError(f"The JSON of the body must not be nested deeper than {MAX_DEPTH} levels.")


def _invalid() -> InvalidParamsError:
    return InvalidParamsError("The body must be a JSON object, but it is not valid JSON.")


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
