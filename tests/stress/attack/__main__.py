"""Attacks on a server that is held to 512 MiB, while a client with another key enqueues and polls.

python -m tests.stress.attack [--seconds 30] [--only NAME …] [--connections 400] [--history 20000]

Each attack has a server of its own. The table shows what the other client noticed: how long it waited for an answer
when it enqueued, with the requests that it could not send in time meanwhile; and how many of its videos were made. The
server's memory is that of its own process, without its workers. An attack is survived if the server lives within its
memory and has no traceback in its log, and the other client got every answer, 99 of 100 within 100 ms, and its videos.
"""

import asyncio
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from benchmarks.report import show
from server.core.generation import Generation, Origin, Status
from server.storage.db.api_keys import digest
from server.storage.db.records import QueueLimits
from tests.stress.attack.attacker import ADDRESSES, ATTACKS, BASELINE, attack
from tests.stress.attack.held import LIMIT, MIB, HeldServer, Meter
from tests.stress.attack.victim import Seen, living, spread
from tests.stress.attack.wire import Target
from tests.stress.fuzz import DOCUMENTED, KEY
from tests.support.records import StandaloneStore
from tests.support.server_process import MODEL

PROMISED_MS = 100.0
RECOVERY_SECONDS = 60.0
PROMPT_CHARS = 9000
BATCH = 1000
WORDS = ("ox", "lake", "by", "a", "red", "circle", "moves", "to", "the", "right", "slowly", "at", "dawn")


def fill(data_dir: Path, rows: int) -> None:
    """Give the attacker a history of long prompts."""
    data_dir.mkdir(parents=True)
    store = StandaloneStore(f"sqlite:///{data_dir / 'paddock.db'}")
    made = _history(rows)

    async def insert() -> None:
        while batch := [generation for generation, _ in zip(made, range(BATCH), strict=False)]:
            await store.submissions.insert(batch, QueueLimits(rows))

    asyncio.run(insert())
    store.close()


def _history(rows: int) -> Iterator[Generation]:
    rng, now = Random(0), time.time()
    for age in range(rows, 0, -1):
        prompt = " ".join(rng.choices(WORDS, k=PROMPT_CHARS // 4))[:PROMPT_CHARS]
        ended = Generation(
            id=str(uuid4()),
            tenant=digest(KEY)[:16],
            model=MODEL,
            status=Status.FAILED,
            origin=Origin.QUEUE,
            enqueued_at=now - age,
            parameters={"prompt": prompt},
        )
        yield replace(ended, completed_at=now - age, error_message="num_frames must be an integer")


def measure(name: str, options: Namespace, folder: Path) -> dict[str, Any]:
    """Attack a new server, and return what came of it."""
    chosen = ATTACKS[name]
    data_dir = folder / name.replace(" ", "-")
    if chosen.has_history:
        fill(data_dir, options.history)
    held = HeldServer(data_dir, chosen.descriptors)
    meter, seen = Meter(), list[Seen]()
    try:
        held.start()
        before = held.made()
        target = Target(held.server.port, ADDRESSES[: chosen.addresses], options.connections, options.seconds, data_dir)
        with meter.running(held.pid):
            with living(held.server.port, seen):
                answers = attack(name, target)
                half = time.time() - options.seconds / 2
            recovery = held.seconds_to_answer(RECOVERY_SECONDS)
        status = held.status
        made = held.made() - before if recovery is not None else 0
        failed = held.made("failed") if recovery is not None else 0
        log = held.server.log_text()
    finally:
        held.close()
    if options.logs is not None:
        (options.logs / f"{data_dir.name}.log").write_text(log)
    (victim,) = seen
    figures = {
        "ms": {kind: spread(victim.latencies(kind)) for kind in ("enqueue", "poll", "newcomer")},
        "peak_mib": round(meter.peak / MIB, 1),
        "last_mib": round(meter.last / MIB, 1),
        "descriptors": meter.descriptors,
        "victim": dict(sorted(victim.answers.items())),
        "videos": {"succeeded": made, "failed": failed, "late": sum(moment > half for moment in victim.made_at)},
        "attacker": dict(answers.most_common()),
        "recovery_seconds": None if recovery is None else round(recovery, 2),
        "exit_status": status,
        "in_the_log": {word: log.count(word) for word in ("Traceback", "MemoryError", KEY) if word in log},
    }
    return {**figures, "faults": faults(figures, victim)}


def faults(figures: dict[str, Any], victim: Seen) -> list[str]:
    """What was wrong."""
    found = []
    if figures["exit_status"] is not None:
        found.append(f"the server ended with status {figures['exit_status']}")
    elif figures["recovery_seconds"] is None:
        found.append("the server does not recover")
    if figures["peak_mib"] * MIB > LIMIT:
        found.append(f"{figures['peak_mib']:.0f} MiB")
    if figures["ms"]["enqueue"]["p99"] >= PROMISED_MS:
        found.append(f"enqueue p99 {figures['ms']['enqueue']['p99']:.0f} ms")
    found += [f"victim: {what}: {count}" for what, count in victim.wrong().items()]
    if figures["videos"]["failed"]:
        found.append(f"{figures['videos']['failed']} videos failed")
    if not figures["videos"]["late"]:
        found.append("no video was made in its second half")
    found += [f"log: {word[:20]}: {count}" for word, count in figures["in_the_log"].items()]
    server_errors = {status for status in figures["attacker"] if status.startswith("5")} - set(map(str, DOCUMENTED))
    return found + [f"status {status}" for status in sorted(server_errors)]


def row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    """The figures of an attack as a row of the table."""
    enqueue, poll = figures["ms"]["enqueue"], figures["ms"]["poll"]
    refused = sum(
        count for what, count in figures["victim"].items() if what.startswith("newcomer") and "200" not in what
    )
    return (
        name,
        f"{enqueue['p50']:.0f} / {enqueue['p95']:.0f} / {enqueue['p99']:.0f} / {enqueue['max']:.0f}",
        f"{poll['p99']:.0f}",
        f"{figures['peak_mib']:.0f}",
        str(figures["descriptors"]),
        str(figures["videos"]["succeeded"]),
        str(refused),
        "; ".join(figures["faults"]) or "survived",
    )


COLUMNS = ("attack", "enqueue ms, p50/95/99/max", "poll p99", "MiB", "files", "videos", "refused", "verdict")


def main() -> None:
    """Attack, print a table and one JSON line. Exits with status 1 unless all attacks were survived."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each attack")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), help="these attacks, after the baseline")
    parser.add_argument("--connections", type=int, default=400, help="from each address of the attacker")
    parser.add_argument("--history", type=int, default=20_000, help="rows that are searched")
    parser.add_argument("--logs", type=Path, help="keep the servers' logs in this folder")
    options = parser.parse_args()
    if options.logs is not None:
        options.logs.mkdir(parents=True, exist_ok=True)
    # the worker, too, would be elsewhere: on a GPU
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = [BASELINE, *(options.only or [name for name in ATTACKS if name != BASELINE])]
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        with TemporaryDirectory() as folder:
            found[name] = measure(name, options, Path(folder))
        print(" | ".join(row(name, found[name])), flush=True)
    figures = {
        "seconds": options.seconds,
        "connections": options.connections,
        "history": options.history,
        "limit_mib": LIMIT // MIB,
        "survived": sum(not each["faults"] for each in found.values()),
        "attacks": found,
    }
    show("attack", [row(name, each) for name, each in found.items()], figures, COLUMNS, width=160)
    if any(each["faults"] for each in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
