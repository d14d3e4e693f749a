"""Shared by the three trainings: a state on disk that a killed run resumes from, and a log of the loss curve."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipelines.core.files import atomic_path

SAVE_EVERY_SECONDS = 60


class Run:
    """One training in `folder`: `steps` counts finished steps, `seconds` the time over all its runs."""

    def __init__(self, folder: Path, parts: dict[str, Any]) -> None:
        self._folder = folder
        self._parts = parts
        self._saved = time.monotonic()
        self._resumed = time.monotonic()
        self.steps = 0
        self._seconds_before = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.is_file():
            state = torch.load(self._file, weights_only=True)
            self.steps, self._seconds_before = state["steps"], state["seconds"]
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])

    @property
    def _file(self) -> Path:
        return self._folder / "state.pt"

    @property
    def seconds(self) -> float:
        """Wall-clock seconds trained so far."""
        return self._seconds_before + time.monotonic() - self._resumed

    def until(self, steps: int) -> Iterator[int]:
        """Count steps up to `steps`, saving every minute and at the end; a killed run loses a minute at most."""
        while self.steps < steps:
            yield self.steps
            self.steps += 1
            if time.monotonic() - self._saved > SAVE_EVERY_SECONDS:
                self.save()
        self.save()

    def save(self) -> None:
        """Write the state atomically."""
        parts = {name: thing.state_dict() for name, thing in self._parts.items()}
        with atomic_path(self._file, durable=False) as part:
            torch.save({"steps": self.steps, "seconds": self.seconds, "parts": parts}, part)
        self._saved = time.monotonic()

    def log(self, **figures: float) -> None:
        """Add a line to the curve and print it."""
        line = json.dumps({"step": self.steps, "seconds": round(self.seconds), **figures})
        print(line, flush=True)
        with (self._folder / "curve.jsonl").open("a") as curve:
            curve.write(line + "\n")


def seed_step(seed: int, step: int) -> None:
    """Seed a step by its number, so that a resumed run draws the same random numbers."""
    torch.manual_seed(seed * 1_000_003 + step)
