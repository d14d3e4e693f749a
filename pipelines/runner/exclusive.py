"""Lets one thread at a time use an object, until the object is closed."""

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from pipelines.core.errors import RunnerError

P = ParamSpec("P")
R = TypeVar("R")


class Exclusive:
    """Base of a class with methods that must not overlap; after `end_use` they are refused."""

    def __init__(self) -> None:
        self._use = threading.Lock()
        self._is_closed = False

    def end_use(self) -> bool:
        """Refuse all calls from now on. Return whether this is the first call."""
        was_closed, self._is_closed = self._is_closed, True
        return not was_closed


Owner = TypeVar("Owner", bound=Exclusive)


def exclusive(method: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """Make a method raise RunnerError while another one runs, and after the end of use."""

    @functools.wraps(method)
    def call(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._is_closed:
            raise RunnerError("This runner is closed: load the model again.")
        if not self._use.acquire(blocking=False):
            raise RunnerError("This runner is making another video. It makes one at a time: wait, or load another.")
        try:
            return method(self, *args, **kwargs)
        finally:
            self._use.release()

    return call
