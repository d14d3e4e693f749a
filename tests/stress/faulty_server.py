"""The real server, failing on order: `python -P -m tests.stress.faulty_server serve …`, called as `paddock` is."""

import time
from collections.abc import Callable, Coroutine
from functools import partialmethod
from typing import Any

from server.cli import main as cli
from server.engine.subprocess.engine import SubprocessEngine
from server.storage.db.statements.attempts import Attempts
from tests.stress.faults import Faults

faults = Faults.here()


def _struck(method: Callable[..., Coroutine[Any, Any, Any]], what: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The same method of a store, with a place before and a place after it."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        faults.strike(f"before {what}")
        result = await method(*args, **kwargs)
        if result is not None:
            faults.strike(f"after {what}")
        return result

    return call


if __name__ == "__main__":
    SubprocessEngine.__init__ = partialmethod(SubprocessEngine.__init__, worker="tests.stress.faulty_worker")  # type: ignore
    Attempts.claim = _struck(Attempts.claim, "the claim")  # type: ignore[method-assign]
    Attempts.succeed = _struck(Attempts.succeed, "the row says succeeded")  # type: ignore[method-assign]
    time.time = faults.time
    cli.main()
