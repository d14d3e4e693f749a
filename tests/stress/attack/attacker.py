"""The attacks by name, and the process that an attack runs in."""

import asyncio
import multiprocessing
import os
import resource
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tests.stress.attack import contents, floods, lines
from tests.stress.attack.wire import Target, for_seconds

NICENESS = 10
"""An attacker has a machine of its own. Here it takes what the server and its victim leave of the processors."""

FEW_DESCRIPTORS = 1024
ADDRESSES = ("127.0.0.1", "127.0.0.3", "127.0.0.4", "127.0.0.5")
_GRACE_SECONDS = 60.0
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Attack:
    """What is done, from how many addresses, and what the server has before: descriptors, and a history to search."""

    run: Callable[[Target], Awaitable[None]]
    addresses: int = 1
    descriptors: int | None = None
    has_history: bool = False


BASELINE = "none"
ATTACKS = {
    BASELINE: Attack(lines.nothing),
    "pipelining": Attack(lines.pipelining),
    "pipelining without a key": Attack(lines.open_pipelining),
    "searches": Attack(contents.searches, has_history=True),
    "descriptors": Attack(lines.descriptors, descriptors=FEW_DESCRIPTORS),
    "descriptors of many addresses": Attack(lines.descriptors, len(ADDRESSES), FEW_DESCRIPTORS),
    "echoes": Attack(contents.echoes),
    "replays": Attack(contents.replays),
    "halves": Attack(lines.halves),
    "halves of many addresses": Attack(lines.halves, len(ADDRESSES)),
    "base64": Attack(lines.base64),
    "deep json": Attack(contents.deep),
    "chunks": Attack(contents.chunks),
    "heads": Attack(contents.heads),
    "fuzz": Attack(floods.fuzz),
    "loads": Attack(floods.loads),
    "idempotency keys": Attack(floods.idempotency),
    "waits": Attack(floods.waits),
    "polls": Attack(floods.polls),
    "churn": Attack(floods.churn),
    "places": Attack(floods.places),
    "everything": Attack(contents.everything, has_history=True),
}


def _run(name: str, target: Target, report: Connection) -> None:
    os.nice(NICENESS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(for_seconds(target.seconds, ATTACKS[name].run(target)))
    report.send(target.answers)


def attack(name: str, target: Target) -> Counter[str]:
    """Carry out an attack in a process of its own. Returns the count of each status and error that it met."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(name, target, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answers: Counter[str] = (
            ours.recv() if ours.poll(target.seconds + _GRACE_SECONDS) else Counter({"the attacker hangs": 1})
        )
    except EOFError:
        answers = Counter({"the attacker died": 1})
    process.kill()
    process.join()
    return answers
