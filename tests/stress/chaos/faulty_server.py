"""The real server with injection points: `python -P -m tests.stress.chaos.faulty_server serve …`."""

import os
import time
from collections.abc import Callable, Coroutine
from functools import partialmethod
from typing import Any

from server.cli import main as cli
from server.engine.subprocess.engine import SubprocessEngine
from server.storage.db.statements.attempts import Attempts
from tests.stress.chaos.faults import SERVER_PID, Faults

faults = Faults.here()


def _with_points(method: Callable[..., Coroutine[Any, Any, Any]], what: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A method of the store with an injection point before and one after it."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        faults.inject(f"before {what}")
        result = await method(*args, **kwargs)
        if result is not None:
            faults.inject(f"after {what}")
        return result

    return call


if __name__ == "__main__":
    os.environ[SERVER_PID] = str(os.getpid())
    SubprocessEngine.__init__ = partialmethod(  # type: ignore
        SubprocessEngine.__init__, worker="tests.stress.chaos.faulty_worker"
    )
    Attempts.claim = _with_points(Attempts.claim, "the claim")  # type: ignore[method-assign]
    Attempts.succeed = _with_points(Attempts.succeed, "the row says succeeded")  # type: ignore[method-assign]
    time.time = faults.time
    cli.main()
