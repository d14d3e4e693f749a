"""The real server that goes wrong on order: `python -P -m benchmarks.faulty_server serve …`, as `paddock` is called."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.faults import Faults
from server import cli
from server.engine import local
from server.store import Store

faults = Faults.here()


def _struck(method: Callable[..., Coroutine[Any, Any, Any]], what: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The same method of the store, with a place before and a place after it."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        faults.strike(f"before {what}")
        result = await method(*args, **kwargs)
        if result is not None:
            faults.strike(f"after {what}")
        return result

    return call


if __name__ == "__main__":
    local.WORKER = "benchmarks.faulty_worker"
    Store.claim = _struck(Store.claim, "the claim")  # type: ignore[method-assign]
    Store.succeed = _struck(Store.succeed, "the row says succeeded")  # type: ignore[method-assign]
    time.time = faults.time
    cli.main()
