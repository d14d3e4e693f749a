"""How many connections may be open: in all, within the file descriptors of the process, and from one address."""

import logging
from collections import Counter

try:
    import resource
except ImportError:
    # Windows has no such limit
    resource = None  # type: ignore[assignment]

RESERVED_DESCRIPTORS = 256
"""Descriptors that connections leave to the database, files and workers."""

CONNECTION_BYTES = 320 * 1024
"""What a connection may hold: an answer that is not read, and as much of a body as waits, or is received at once."""

MEMORY_SHARE = 8
"""All connections together may hold one part of so many of the machine's memory."""

MAX_DESCRIPTORS = 65_536
"""The limit is not raised beyond this, for programs that close every possible descriptor when they start."""

log = logging.getLogger("paddock")


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors as far as the system allows. Return the limit."""
    if resource is None:
        return MAX_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of %d open files cannot be raised: %s", soft, error)
        return soft
    return wanted


class ConnectionLimits:
    """Counts open connections: at most `total`, and `per_address` from one address."""

    def __init__(self, total: int, per_address: int) -> None:
        self.total = total
        self.per_address = per_address
        self._open: Counter[str] = Counter()

    @classmethod
    def of(cls, descriptors: int, per_address: int, memory: int) -> "ConnectionLimits":
        """Return the limits for a process that may have so many descriptors open, on a machine with `memory` bytes."""
        # a connection that downloads a file holds that, too
        total = (descriptors - RESERVED_DESCRIPTORS) // 2
        total = max(1, min(total, memory // MEMORY_SHARE // CONNECTION_BYTES))
        # half of them are for other addresses
        return cls(total, min(per_address, max(1, total // 2)))

    def open(self, address: str) -> bool:
        """Count a new connection. Return whether it may stay."""
        self._open[address] += 1
        return self._open[address] <= self.per_address and self._open.total() <= self.total

    def close(self, address: str) -> None:
        """Count a connection no more."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
