"""The faults: what is killed, frozen or restarted, and how long it takes until the work goes on elsewhere."""

import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.stress.cluster_chaos.machines import command_of
from tests.stress.cluster_chaos.system import LEASE, Attempt, System
from tests.support.server_process import ServerProcess, eventually

FROZEN_SECONDS = 25.0
_WATCH_SECONDS = 120.0
_ACTOR, _WORKER, _BRIDGE = "ray::HostedWorker", r"server\.engine\.worker\b", r"server\.engine\.ray\.bridge"


@dataclass(slots=True)
class Times:
    """Seconds from a fault until the attempts that it broke had ended, and until the next attempts had begun."""

    noticed: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    unharmed: int = 0
    """Attempts that went on, or that had just ended."""


class Faults:
    """Carries out faults on a system, at attempts that have begun to compute."""

    def __init__(self, system: System, dice: random.Random) -> None:
        self._system = system
        self._dice = dice
        self.times: dict[str, Times] = {}
        self._victims: set[str] = set()
        """Generations that lost a worker: a second loss in a row would fail them, and should."""
        self.all: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._kill_part(_WORKER),
            "actor killed": lambda: self._kill_part(_ACTOR),
            "bridge killed": self._kill_bridge,
            "raylet killed": lambda: self._kill_part(r"/raylet\b"),
            "host killed": self._kill_host,
            "host frozen": self._freeze_host,
            "head killed": self._kill_head,
            "server killed": lambda: self._end_server(ServerProcess.kill),
            "server stopped": lambda: self._end_server(ServerProcess.stop),
            "database restarted": self._restart_database,
        }

    def inject(self, name: str) -> None:
        """Carry out one fault, and wait until the system is whole again."""
        self.times.setdefault(name, Times())
        self._name = name
        self.all[name]()
        self._system.wait_until_whole()

    def _victim(self, may_be_head: bool = True) -> Attempt:
        """An attempt whose generation has made some steps."""
        system = self._system
        devices = [each.device for each in system.machines.values() if may_be_head or not each.is_head]

        def found() -> list[Attempt]:
            if len(system.ids) - system.ended() < 5:
                # nearly nothing is left to interrupt
                system.enqueue(10)
            running = [each for each in system.running() if each.generation_id not in self._victims]
            return [each for each in running if each.device in devices and self._has_steps(each)]

        victim = self._dice.choice(eventually(found))
        self._victims.add(victim.generation_id)
        return victim

    def _has_steps(self, attempt: Attempt) -> bool:
        row = self._server_of(attempt).row(attempt.generation_id)
        # what has no estimate is still being loaded, at the progress of the attempt before; nor is it about to end
        return row["status"] == "processing" and row["eta_seconds"] is not None and 0.1 < row["progress"] < 0.8

    def _measure(self, broken: list[Attempt], began: float) -> None:
        """Wait until broken attempts have ended and others have begun, and note how long that took."""
        times = self.times[self._name]
        until = time.monotonic() + _WATCH_SECONDS
        left = {each.generation_id: each for each in broken}
        while left and time.monotonic() < until:
            for id_, attempt in list(left.items()):
                now = {each.attempt: each for each in self._system.attempts("generation_id = %s", id_)}
                mine, following = now[attempt.attempt], now.get(attempt.attempt + 1)
                assert mine.outcome != "failed", f"{self._name}: generation {id_} failed"
                if mine.outcome == "succeeded":
                    times.unharmed += 1
                elif mine.ended_at is not None and following is not None:
                    times.noticed.append(mine.ended_at - began)
                    times.resumed.append(following.started_at - began)
                else:
                    continue
                del left[id_]
            time.sleep(0.1)
        assert not left, f"{self._name}: {left} did not go on within {_WATCH_SECONDS:g} s"

    def _machine_of(self, attempt: Attempt) -> str:
        return attempt.device.partition("/")[0]

    def _kill_part(self, pattern: str) -> None:
        attempt = self._victim()
        machine = self._system.machines[self._machine_of(attempt)]
        began = time.time()
        found = machine.find(pattern)
        _kill(found)
        self._measure([attempt] if found else [], began)

    def _kill_bridge(self) -> None:
        attempt = self._victim()
        host = f'"host":"{self._machine_of(attempt)}"'
        server = self._server_of(attempt)
        assert server.process is not None
        children = psutil.Process(server.process.pid).children(recursive=True)
        bridges = [each for each in children if re.search(_BRIDGE, command := command_of(each)) and host in command]
        began = time.time()
        _kill(bridges)
        self._measure([attempt] if bridges else [], began)

    def _kill_host(self) -> None:
        attempt = self._victim(may_be_head=False)
        machine = self._system.machines[self._machine_of(attempt)]
        began = time.time()
        machine.kill()
        self._measure([attempt], began)
        machine.start(self._system.head.token)

    def _freeze_host(self) -> None:
        attempt = self._victim(may_be_head=False)
        machine = self._system.machines[self._machine_of(attempt)]
        began = time.time()
        frozen = machine.processes()
        machine.signal(signal.SIGSTOP)
        self._measure([attempt], began)
        time.sleep(max(0.0, began + FROZEN_SECONDS - time.time()))
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def _kill_head(self) -> None:
        self._victim()
        began = time.time()
        running = self._system.running()
        _kill(self._system.head.find("gcs_server"))
        self._measure(running, began)

    def _end_server(self, end: Callable[[ServerProcess], object]) -> None:
        attempt = self._victim()
        server = self._server_of(attempt)
        broken = [each for each in self._system.running() if self._server_of(each) is server]
        began = time.time()
        end(server)
        self._measure(broken, began)
        server.start()

    def _restart_database(self) -> None:
        self._victim()
        running = self._system.running()
        self._system.postgres.restart()
        # their claims outlive it
        time.sleep(LEASE)
        self.times[self._name].unharmed += len(running)

    def _server_of(self, attempt: Attempt) -> ServerProcess:
        """The server that made an attempt: its owner has the server's process id."""
        pid = int(attempt.owner.split("/")[2])
        return next(each for each in self._system.servers if each.process is not None and each.process.pid == pid)

    def in_random_order(self, rounds: int) -> Iterator[str]:
        """The names of all faults, each some times."""
        for _ in range(rounds):
            names = [*self.all]
            self._dice.shuffle(names)
            yield from names


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
