"""The system under test: three machines, two servers, a database and an object store, and the generations in it."""

import os
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import namedtuple_row

from tests.stress.cluster_chaos.machines import Machine
from tests.stress.cluster_chaos.subscribers import Subscriber
from tests.support.object_store import BUCKET, ObjectStoreServer
from tests.support.postgres import PostgresServer
from tests.support.server_process import MODEL, ServerProcess, eventually

REQUEST: dict[str, Any] = {
    "model": MODEL,
    "prompt": "a red circle moving right on a blue background",
    "width": 192,
    "height": 128,
    "num_frames": 9,
    "num_inference_steps": 30,
}
SEEDS = 4
"""Each generation has one of these seeds, and so one of as many reference videos."""

MACHINES = ("one", "two", "three")
PREFIX = "chaos"
LEASE = 5.0
PATIENCE = 300.0

_SETTINGS = {
    "files_url": f"s3://{BUCKET}/{PREFIX}",
    "ray_address": "127.0.0.1:6379",
    "ray_checkpoint_interval": "0.3",
    "lease": f"{LEASE:g}",
    # longer than a server takes to start again
    "event_replay": "120",
    # a failing device is tried again soon: there are minutes for all faults, not days
    "unhealthy_cooldown": "5",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at a generation; times are seconds since the epoch, `ended_at` and `outcome` None while it runs."""

    generation_id: str
    attempt: int
    owner: str
    started_at: float
    ended_at: float | None
    outcome: str | None

    @property
    def device(self) -> str:
        """The device that it runs on."""
        return "/".join(self.owner.split("/")[-2:])


class System:
    """Everything that runs. Use it within a network of its own: `paddock cluster` listens on the network's address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = PostgresServer()
        self.postgres.start()
        self.database = self.postgres.url(self.postgres.create())
        self.store = ObjectStoreServer()
        os.environ.update(self.store.environment)
        self.machines = {name: Machine(folder, name, number) for number, name in enumerate(MACHINES)}
        self.servers: list[ServerProcess] = []
        self.subscribers: list[Subscriber] = []
        self.references: list[bytes] = []
        self.ids: list[str] = []
        self._turn = count()

    @property
    def head(self) -> Machine:
        """The machine of the cluster's head."""
        return self.machines[MACHINES[0]]

    def start(self) -> None:
        """Start machines and servers, and wait until each server knows each device."""
        for machine in self.machines.values():
            machine.start(None if machine.is_head else self.head.token)
        for name in ("first", "second"):
            token = {"ray_token_file": str(self.head.token)}
            server = ServerProcess(self.folder / name, database_url=self.database, **_SETTINGS, **token)
            server.start()
            self.servers.append(server)
            self.subscribers.append(Subscriber(server.url))
        self.wait_until_whole()

    def close(self) -> None:
        """End everything."""
        for subscriber in self.subscribers:
            subscriber.end()
        for server in self.servers:
            server.close()
        for machine in self.machines.values():
            if machine.is_running:
                machine.kill()
        self.store.stop()
        self.postgres.stop()

    def make_references(self) -> None:
        """Make the video of each seed without faults."""
        for seed in range(SEEDS):
            self.references.append(self.servers[0].video(self.servers[0].enqueue(**REQUEST, seed=seed)))

    def enqueue(self, number: int) -> None:
        """Queue generations, in turn on the servers that run, with the seeds in turn."""
        for _ in range(number):
            turn = next(self._turn)
            running = [each for each in self.servers if each.process is not None and each.process.poll() is None]
            server = running[turn % len(running)]
            self.ids.append(server.enqueue(**REQUEST, seed=len(self.ids) % SEEDS))

    def reference(self, id_: str) -> bytes:
        """The video that a generation must have."""
        return self.references[self.ids.index(id_) % SEEDS]

    # what it does now

    def devices(self, server: ServerProcess) -> dict[str, dict[str, Any]]:
        """The devices that a server knows, by their names; none while it is not ready."""
        try:
            answer = httpx.get(f"{server.url}/readyz", timeout=10)
        except httpx.HTTPError:
            return {}
        return {each["device"]: each for each in answer.json()["devices"]} if answer.status_code == 200 else {}

    def wait_until_whole(self) -> None:
        """Wait until both servers know all devices, and none of them is failing."""
        wanted = {machine.device for machine in self.machines.values()}

        def is_whole() -> bool:
            known = [self.devices(server) for server in self.servers]
            return all(
                set(each) == wanted and all(device["health"] != "unhealthy" for device in each.values())
                for each in known
            )

        eventually(is_whole, patience=PATIENCE)

    def query(self, sql: str, *values: Any) -> list[Any]:
        """Query the database, which may be down for some seconds."""
        until = time.monotonic() + 30
        while True:
            try:
                with psycopg.connect(self.database, autocommit=True, row_factory=namedtuple_row) as connection:
                    return connection.execute(sql, values).fetchall()  # type: ignore[call-overload, no-any-return]
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def attempts(self, where: str = "TRUE", *values: Any) -> list[Attempt]:
        """Attempts, the first of each generation first."""
        columns = "generation_id, attempt, owner, started_at, ended_at, outcome"
        rows = self.query(f"SELECT {columns} FROM attempts WHERE {where} ORDER BY attempt", *values)  # noqa: S608
        return [Attempt(*row) for row in rows]

    def running(self) -> list[Attempt]:
        """The attempts that have not ended."""
        return self.attempts("ended_at IS NULL")

    def ended(self) -> int:
        """How many generations have ended."""
        rows = self.query("SELECT count(*) FROM generations WHERE status NOT IN ('queued', 'processing')")
        return int(rows[0][0])
