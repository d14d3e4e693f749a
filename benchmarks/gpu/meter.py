"""The record of one case of `benchmarks.gpu`, written after every stage and step."""

import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu.card import Card, Stage, Watch
from benchmarks.gpu.random_weights import Scale
from benchmarks.gpu.run import Case, allocator_settings
from pipelines.core.files import atomic_write

DENOISING, DENOISING_COMPILED = "denoising", "denoising, compiled"


class Meter:
    """A case's record while it grows: the seconds and peaks of each stage, and the seconds of each step."""

    def __init__(self, case: Case, scale: Scale, card: Card, watch: Watch, to: Path) -> None:
        self._card = card
        self._watch = watch
        self._to = to
        self._stage = ""
        self._began = self._last = 0.0
        self.record: dict[str, Any] = {
            "case": case.name,
            "scale": scale.name,
            "video": list(scale.videos[case.video]),
            "cap_bytes": case.cap,
            "date": time.strftime("%Y-%m-%d"),
            "allocator": allocator_settings(),
            **{package: version(package) for package in ("torch", "diffusers", "transformers")},
            **card.facts(),
            "stages": {},
            "step_seconds": [],
        }

    def note(self, **facts: Any) -> None:
        """Add facts to the record and write it."""
        self.record.update(facts)
        atomic_write(self._to, json.dumps(self.record), durable=False)

    def turn_to(self, stage: str) -> None:
        """End the current stage and begin another."""
        self.end()
        self._card.reset()
        self._watch.restart()
        self._stage = stage
        self._began = self._last = time.perf_counter()

    def end(self) -> None:
        """End the current stage, if any."""
        if self._stage:
            self._card.synchronize()
            seconds = time.perf_counter() - self._began
            self._watch.sample()
            self.record["stages"][self._stage] = Stage(seconds, self._card.use(), self._watch.card).json()
            self._stage = ""
            self.note(host_bytes=self._watch.host)

    def give_up(self, **reason: str) -> None:
        """End the current stage without figures, because it was not completed, and note why."""
        self.note(**reason, stopped_in=self._stage)
        self._stage = ""

    def step(self) -> None:
        """Note the seconds since the last step, or since the stage began."""
        self._card.synchronize()
        steps = self.record if self._stage == DENOISING else self.record.setdefault("compiled", {"step_seconds": []})
        steps["step_seconds"].append(round(time.perf_counter() - self._last, 3))
        first, *timed = steps["step_seconds"]
        if timed:
            usual = statistics.median(timed)
            steps.update(seconds_per_step=round(usual, 3), first_step_more_seconds=round(first - usual, 3))
        self.note()
        self._last = time.perf_counter()
