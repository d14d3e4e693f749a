"""The real worker and model, with injection points: `python -P -m tests.stress.chaos.faulty_worker FD OPTIONS`."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.files import part_path
from pipelines.core.progress import Stage
from pipelines.stages import checkpoint
from server.engine.protocol import Attempt, Done, Loading, Progressed, Report, Run
from server.engine.worker import link, worker
from server.engine.worker.__main__ import main
from tests.stress.chaos.faults import Faults

FLOOD = 200_000
_POINTS = {Stage.PROMPT: "encoding the prompt", Stage.DENOISE: "denoising", Stage.DECODE: "decoding"}

faults = Faults.here()


class Link(link.Link):
    """Has an injection point at every stage of a generation, because the worker reports each."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._started: set[Attempt] = set()

    def send(self, report: Report) -> None:
        """Inject the fault that is ordered for this report, then send it."""
        match report:
            case Loading():
                self._inject("loading", report)
            case Progressed(stage=Stage.DECODE, step=step, steps=steps) if step == steps:
                # the file is complete
                pass
            case Progressed(generation_id=generation_id, attempt=attempt, stage=stage, fraction=fraction):
                if report.about not in self._started:
                    self._started.add(report.about)
                    faults.note(started_at=fraction, generation=generation_id, attempt=attempt)
                self._inject(_POINTS[stage], report, generation=generation_id, attempt=attempt, reached=fraction)
            case Done(generation_id=generation_id, attempt=attempt):
                about = {"generation": generation_id, "attempt": attempt, "reached": 1.0}
                self._inject("between rename and report", report, **about)
            case _:
                pass
        super().send(report)

    def _inject(self, point: str, report: Report, **facts: Any) -> None:
        def flood() -> None:
            for _ in range(FLOOD):
                super(Link, self).send(report)

        faults.inject(point, flood=flood, **facts)


class Worker(worker.Worker):
    """Has an injection point before a file is finished, which no report tells."""

    def _finish(self, order: Run, *others: Any) -> None:
        faults.inject("finishing the file", generation=order.generation_id, attempt=order.attempt, reached=1.0)
        super()._finish(order, *others)


def _write_file(path: Path, about: Mapping[str, Any], state: checkpoint.DenoisingState) -> None:
    def write_half() -> None:
        part_path(path).write_bytes(b"half a checkpoint")

    faults.inject("saving a checkpoint", before=write_half, generation=path.name.partition(".")[0])
    write_file(path, about, state)


write_file = checkpoint._write_file

if __name__ == "__main__":
    checkpoint._write_file = _write_file
    main(Link, Worker)
