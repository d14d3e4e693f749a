"""A worker's end of the socket to the server."""

import os
import queue
import socket
import threading

from server.engine.protocol import (
    ORDER,
    Attempt,
    Cancel,
    DeviceMemory,
    Heartbeat,
    Order,
    Prepare,
    Report,
    Run,
    Suspend,
)

HEARTBEAT_SECONDS = 1.0


class Link:
    """Sends reports from any thread, and receives orders: those to cancel or suspend apart, all others in a queue."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._cancelled: set[Attempt] = set()
        self._suspended: set[Attempt] = set()
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.memory: DeviceMemory | None = None
        self.compile_error: str | None = None
        self._upcoming: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        """Listen and send heartbeats, in the background."""
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def send(self, report: Report) -> None:
        """Send one report."""
        with self._sending:
            try:
                self._connection.sendall(report.line())
            except OSError:
                exit_now()

    def is_cancelled(self, run: Run) -> bool:
        """Whether the server has asked to stop this attempt."""
        return run.about in self._cancelled

    def is_suspended(self, run: Run) -> bool:
        """Whether the server has asked this attempt to save its checkpoint and stop."""
        return run.about in self._suspended

    def upcoming(self) -> list[str]:
        """The prompts of the next generations that the server has sent since the last call."""
        return [self._upcoming.get() for _ in range(self._upcoming.qsize())]

    def forget_stops(self) -> None:
        """Drop requests to stop attempts that have ended."""
        self._cancelled.clear()
        self._suspended.clear()

    def _listen(self) -> None:
        try:
            for line in self._connection.makefile("rb"):
                order = ORDER.validate_json(line)
                match order:
                    case Cancel():
                        self._cancelled.add(order.about)
                    case Suspend():
                        self._suspended.add(order.about)
                    case Prepare():
                        for prompt in order.prompts:
                            self._upcoming.put(prompt)
                    case _:
                        self.orders.put(order)
        finally:
            # a worker that receives nothing must not go on sending heartbeats
            exit_now()

    def _beat(self) -> None:
        wait = threading.Event()
        while not wait.wait(HEARTBEAT_SECONDS):
            self.send(Heartbeat(memory=self.memory, compile_error=self.compile_error))


def exit_now(status: int = 0) -> None:
    """End this process at once, whatever its threads do."""
    os._exit(status)
