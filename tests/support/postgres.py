"""A PostgreSQL server for tests: Debian's, with its data and socket in a temporary folder."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_SECONDS = 60
# the data need not survive a power failure
QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_wal_size=64MB", "shared_buffers=32MB")


class PostgresServer:
    """A cluster of databases, removed by `stop`; `settings` are in PostgreSQL's words, `name=value`."""

    def __init__(self, settings: Sequence[str] = QUICK) -> None:
        self._settings = settings
        # not pytest's folder: PostgreSQL's user cannot read it, and its path is too long for a socket
        self.folder = Path(tempfile.mkdtemp(prefix="paddock-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    def start(self) -> None:
        """Create the cluster and start it."""
        made = ("-D", self._data, "-U", "paddock", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        as_user = _unprivileged(self.folder)
        subprocess.run([program("initdb"), *made], stdout=subprocess.DEVNULL, check=True, **as_user)
        self._run()

    def restart(self) -> None:
        """Stop it, with all its connections, and start it again on the same data."""
        self._end()
        self._run()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self) -> None:
        options = [part for setting in self._settings for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", self._data, "-k", self.folder, "-h", "", *options],
                stdout=log,
                stderr=log,
                **_unprivileged(self.folder),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Stop it, with all its connections, and remove its files."""
        self._end()
        shutil.rmtree(self.folder)

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://paddock@/{database}?host={self.folder}"

    @property
    def pid(self) -> int:
        """The number of its first process, the parent of all others."""
        assert self._process is not None, "it is started"
        return self._process.pid

    def create(self, template: str = "template1") -> str:
        """Create a database, empty or a copy of another one that nobody uses, and return its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database with all its connections."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Execute a statement on the cluster, outside of a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs. Without it the test is skipped, but fails in CI."""
    # Debian has a folder for each version, outside of PATH
    debian = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([*debian, os.environ.get("PATH", "")]))
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"PostgreSQL's {name} is not installed, and CI must have it")
        pytest.skip(f"PostgreSQL's {name} is not installed: on Debian, apt-get install postgresql")
    return found


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Arguments for a process that may not run as root and must own this folder."""
    if os.geteuid() != 0:
        return {"cwd": folder}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"cwd": folder, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
