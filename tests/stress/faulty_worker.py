"""The real worker, with its real model, that fails on order: `python -P -m tests.stress.faulty_worker FD OPTIONS`."""

import os
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
from tests.stress.faults import Faults

FLOOD = 200_000
_PLACES = {Stage.PROMPT: "encoding the prompt", Stage.DENOISE: "denoising", Stage.DECODE: "decoding"}

faults = Faults.here()


class Link(link.Link):
    """Comes by every place of a generation, since the worker tells of each."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._told: set[Attempt] = set()

    def send(self, report: Report) -> None:
        """Go wrong if that is ordered for what is to be told; else tell it."""
        match report:
            case Loading():
                self._strike("loading", report)
            case Progressed(stage=Stage.DECODE, step=step, steps=steps) if step == steps:
                # the file is whole
                pass
            case Progressed(generation_id=generation_id, attempt=attempt, stage=stage, fraction=fraction):
                if report.about not in self._told:
                    self._told.add(report.about)
                    faults.note(taken_up=fraction, generation=generation_id, attempt=attempt)
                self._strike(_PLACES[stage], report, generation=generation_id, attempt=attempt, reached=fraction)
            case Done(generation_id=generation_id, attempt=attempt):
                about = {"generation": generation_id, "attempt": attempt, "reached": 1.0}
                self._strike("between rename and report", report, **about)
            case _:
                pass
        super().send(report)

    def _strike(self, place: str, report: Report, **facts: Any) -> None:
        def flood() -> None:
            for _ in range(FLOOD):
                super(Link, self).send(report)

        faults.strike(place, flood=flood, **facts)


class Worker(worker.Worker):
    """Comes by the end of each file, which no report tells of."""

    def _finish(self, order: Run, *others: Any) -> None:
        faults.strike("finishing the file", generation=order.generation_id, attempt=order.attempt, reached=1.0)
        super()._finish(order, *others)


def _write_file(path: Path, about: Mapping[str, Any], state: checkpoint.DenoisingState) -> None:
    def half() -> None:
        part_path(path).write_bytes(b"half a checkpoint")

    faults.strike("saving a checkpoint", before=half, generation=path.stem)
    write_file(path, about, state)


write_file = checkpoint._write_file

if __name__ == "__main__":
    os.environ["FAULTS_ROLE"] = "worker"
    checkpoint._write_file = _write_file
    main(Link, Worker)
