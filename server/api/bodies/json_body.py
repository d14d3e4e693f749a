"""Request bodies: a JSON object that can be stored in both databases and sent on, and limits of what is held."""

import asyncio
import json
import re
from collections import Counter, deque
from functools import partial
from typing import Any, NoReturn

from server.api.bodies.body import RequestBody
from server.core.errors import InvalidParamsError

MAX_DEPTH = 64
"""Limit of objects and arrays within each other."""

MAX_NAMES = 256
"""Limit of names in the body itself."""

MAX_VALUES = 5_000
"""Limit of all values: parsing millions of small ones would stop the server for all clients for half a second."""

MAX_DIGITS = 500
"""Limit of the characters of a number: the time to read and to write it grows with their square."""

MAX_MARKS = 100_000
"""Limit of the quotes around strings, of which a name and its value have four, and of the backslashes in strings."""

# without a way back, and whole if the end of the text is missing: the time grows with the length alone
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


LARGE_BYTES = 64 * 1024
"""A larger body needs admission. Few requests have one: two prompts in full have about as much."""

MAX_LARGE = 32
MAX_LARGE_OF_TENANT = 8
"""So many large bodies are held at a time, in all and of one tenant; the others are not read on meanwhile."""


class LargeBodies:
    """Admits large bodies, so that the memory they take has a limit however many clients send them.

    A tenant has at most MAX_LARGE_OF_TENANT of them, and half of the places that others leave: there is one for every
    other tenant.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def admit(self, tenant: str, body: RequestBody) -> None:
        """Wait until a body may be read on."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._admit_more()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._release(tenant)
            raise
        body.is_large = True
        body.when_closed(partial(self._release, tenant))

    def _release(self, tenant: str) -> None:
        self._held[tenant] -= 1
        self._held += Counter()
        self._admit_more()

    def _admit_more(self) -> None:
        for tenant, turns in [*self._waiting.items()]:
            while turns and (turns[0].done() or self._may(tenant)):
                if not (turn := turns.popleft()).done():
                    self._held[tenant] += 1
                    turn.set_result(None)
            if not turns:
                del self._waiting[tenant]

    def _may(self, tenant: str) -> bool:
        own = self._held[tenant]
        free = MAX_LARGE - (self._held.total() - own)
        return own < min(MAX_LARGE_OF_TENANT, (free + 1) // 2)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises InvalidParamsError.

    PostgreSQL cannot search a text with NUL, so U+FFFD, the replacement character, stands for it.
    """
    _check_size(raw)
    try:
        body = json.loads(raw, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise _invalid() from error
    return checked_object(body)


def checked_object(body: Any) -> dict[str, Any]:
    """Return a parsed JSON object that can be stored. Raises InvalidParamsError."""
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
    if len(body) > MAX_NAMES:
        raise InvalidParamsError(f"The JSON of the body must have at most {MAX_NAMES} names.")
    return body


def _integer(digits: str) -> int:
    return int(_checked(digits))


def _number(digits: str) -> float:
    return float(_checked(digits))


def _checked(digits: str) -> str:
    if len(digits) > MAX_DIGITS:
        raise InvalidParamsError(f"The numbers in the JSON of the body must have at most {MAX_DIGITS} digits.")
    return digits


def _check_size(raw: bytes) -> None:
    """Refuse what takes long to parse, in a time that every body may take."""
    if raw.count(b"\\") > MAX_MARKS:
        raise InvalidParamsError(f"The JSON of the body must have at most {MAX_MARKS} escaped characters.")
    has_many = raw.count(b'"') - raw.count(b'\\"') > MAX_MARKS
    if has_many or (_values(raw) > MAX_VALUES and _values(_STRING.sub(b"", raw)) > MAX_VALUES):
        raise InvalidParamsError(f"The JSON of the body must have at most {MAX_VALUES} values.")


def _values(raw: bytes) -> int:
    """At least as many as there are values in a JSON text, and more if strings contain these characters."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


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
