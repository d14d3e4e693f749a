"""A PostgreSQL server with the settings of one that is used, and what it had to do in a span of time."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import psycopg

from tests.support.postgres import PostgresServer

DURABLE = (
    "shared_buffers=256MB",
    "max_wal_size=2GB",
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.max=1000",
)
"""Commits wait for the disk, as by default; the statements are counted."""

KINDS = (
    ("lock of claims", r"pg_advisory_xact_lock"),
    ("heads of the queue", r"waiting_tenants|FROM turns ORDER BY|most_passed"),
    ("count of the queue", r"SELECT count\(\*\)"),
    ("turns", r"\bturns\b"),
    ("generation, change", r"UPDATE generations"),
    ("generation, new", r"INSERT INTO generations"),
    ("words, new", r"INSERT INTO prompt_words"),
    ("attempts", r"\battempts\b"),
    ("event numbers", r"event_counters"),
    ("generation, read", r"FROM generations"),
    ("begin, commit", r"^(BEGIN|COMMIT|ROLLBACK|SET)"),
)
"""Of each kind of statements the name, and what its text contains; the first that fits counts."""


@dataclass
class Load:
    """What the database did in `seconds`: statements, commits, CPU seconds, and milliseconds of execution by kind."""

    seconds: float = 0.0
    statements: float = 0.0
    commits: float = 0.0
    cpu: float = 0.0
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Per second, and the share of one core."""
        return {
            "statements_per_second": round(self.statements / self.seconds, 1),
            "commits_per_second": round(self.commits / self.seconds, 1),
            "cores": round(self.cpu / self.seconds, 3),
            "kinds": self.kinds,
        }


class Meter:
    """Measures a database of a server from `start` to `stop`."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server = server
        self._database = database
        self._began = 0.0
        self._cpu: dict[int, float] = {}
        self._commits = 0

    def start(self) -> None:
        """Begin."""
        with self._connect() as tx:
            tx.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            tx.execute("SELECT pg_stat_statements_reset()")
            self._commits = self._committed(tx)
        self._cpu, self._began = self._cpu_seconds(), time.monotonic()

    def stop(self) -> Load:
        """End, and say what was done."""
        seconds, after = time.monotonic() - self._began, self._cpu_seconds()
        with self._connect() as tx:
            found = tx.execute(
                "SELECT query, sum(calls)::bigint, sum(total_exec_time) FROM pg_stat_statements s "
                "JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = %s GROUP BY query",
                (self._database,),
            ).fetchall()
            commits = self._committed(tx) - self._commits
        kinds: dict[str, dict[str, float]] = {}
        for query, calls, milliseconds in found:
            kind = kinds.setdefault(_kind(query), {"calls": 0, "ms": 0.0})
            kind["calls"] += calls
            kind["ms"] = round(kind["ms"] + milliseconds, 1)
        cpu = sum(spent - self._cpu.get(pid, 0.0) for pid, spent in after.items())
        heaviest = dict(sorted(kinds.items(), key=lambda item: -item[1]["ms"]))
        return Load(seconds, sum(kind["calls"] for kind in kinds.values()), commits, cpu, heaviest)

    def _connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self._server.url(self._database), autocommit=True)

    def _committed(self, tx: "psycopg.Connection[Any]") -> int:
        row = tx.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = %s", (self._database,)).fetchone()
        return 0 if row is None else int(row[0])

    def _cpu_seconds(self) -> dict[int, float]:
        """By process. What a process did that has ended meanwhile is lost: the connections of servers stay."""
        found: dict[int, float] = {}
        first = psutil.Process(self._server.pid)
        for process in (first, *first.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[process.pid] = times.user + times.system
        return found


def _kind(query: str) -> str:
    return next((name for name, pattern in KINDS if re.search(pattern, query)), "other")
