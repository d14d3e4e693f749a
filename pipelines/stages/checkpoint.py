"""A half-done denoising, saved and taken up again: what a killed process had done is not done a second time.

A checkpoint is one file: a line of JSON that names the format, what the generation depends on and the checksum of the
rest, then the rest, which torch wrote. It is a few times the size of the latents: 34 MB at 480p and 81 frames.
"""

import hashlib
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.core.errors import GenerationSuspended
from pipelines.core.files import atomic_path
from pipelines.core.progress import CancelCheck
from pipelines.stages.guidance import Passes

FORMAT = 2
"""Of the file; one of another format is not read."""

log = logging.getLogger("paddock.checkpoint")


@dataclass(frozen=True, slots=True)
class DenoisingState:
    """A denoising after `step` steps, all of it in host memory.

    `latents` are those that the next step takes, (1, channels, t, h, w) in fp32; `scheduler` holds what the scheduler
    remembers by attribute, `on_device` names those it keeps on the device; `generator` is the state of the CPU's random
    generator; `passes` is what the passes to come depend on; `seconds` is the work spent on the generation so far, by
    all attempts that count.
    """

    step: int
    latents: torch.Tensor
    scheduler: dict[str, Any]
    on_device: list[str]
    generator: torch.Tensor
    passes: dict[str, Any]
    seconds: float

    @classmethod
    def capture(
        cls,
        scheduler: Any,
        step: int,
        latents: torch.Tensor,
        generator: torch.Generator,
        passes: Passes,
        seconds: float,
    ) -> "DenoisingState":
        """Copy the state of a denoising."""
        # the configuration is not state: it comes with the weights
        state = {name: value for name, value in vars(scheduler).items() if name != "_internal_dict"}
        return cls(
            step=step,
            latents=_moved(latents, "cpu", copy=True),
            scheduler=_moved(state, "cpu", copy=True),
            on_device=[name for name, value in state.items() if _is_on_device(value)],
            generator=generator.get_state(),
            passes=_moved(passes.state(), "cpu", copy=True),
            seconds=seconds,
        )

    def restore(self, scheduler: Any, passes: Passes, device: torch.device) -> None:
        """Have a scheduler whose timesteps are set, and the passes, remember what was captured."""
        passes.restore(_moved(self.passes, device))
        for name, value in self.scheduler.items():
            setattr(scheduler, name, _moved(value, device if name in self.on_device else "cpu"))


class Checkpoint:
    """The file in which a generation's half-done state is kept, written in the background every `interval` seconds.

    Once `suspended()` is true the state is written a last time, and the generation ends there. `on_saved` is called
    with the fraction (0 … 1) of the generation that a checkpoint holds, from another thread. One object serves one run.
    """

    def __init__(
        self,
        path: Path,
        interval: float,
        suspended: CancelCheck = lambda: False,
        on_saved: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._interval = interval
        self._suspended = suspended
        self._on_saved = on_saved
        self._due = time.monotonic() + interval
        self._writer: threading.Thread | None = None

    def load(self, about: Mapping[str, Any]) -> DenoisingState | None:
        """The state to go on from; None if there is none for a generation that depends on just this."""
        try:
            with self._path.open("rb") as file:
                header = json.loads(file.readline())
                reason = _unfit(header, about)
                payload = b"" if reason else file.read()
            if reason is None and hashlib.sha256(payload).hexdigest() != header.get("sha256"):
                reason = "it is damaged"
            if reason is None:
                return DenoisingState(**torch.load(io.BytesIO(payload), weights_only=True))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = f"it cannot be read: {error}"
        log.warning("a checkpoint is left aside, and its generation starts over: %s", reason)
        return None

    def after_step(
        self, about: Mapping[str, Any], fraction: float, capture: Callable[[], DenoisingState], *, is_last: bool
    ) -> None:
        """Save the state after a step if it is time; raises GenerationSuspended if the generation is to end here."""
        is_suspended = self._suspended()
        # what follows the last step is never saved, so that it alone is done again
        if is_last or is_suspended or (time.monotonic() >= self._due and not self._is_writing):
            self.finish()
            state = capture()
            self._writer = threading.Thread(target=self._write, args=(about, fraction, state), name="checkpoint")
            self._writer.start()
            self._due = time.monotonic() + self._interval
        if is_suspended:
            self.finish()
            raise GenerationSuspended

    def finish(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            self._writer.join()

    @property
    def _is_writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _write(self, about: Mapping[str, Any], fraction: float, state: DenoisingState) -> None:
        try:
            _write_file(self._path, about, state)
        except OSError as error:
            # a generation without a checkpoint is better than none
            log.warning("no checkpoint was saved: %s", error)
        else:
            self._on_saved(fraction)


def _write_file(path: Path, about: Mapping[str, Any], state: DenoisingState) -> None:
    buffer = io.BytesIO()
    torch.save({name: getattr(state, name) for name in DenoisingState.__dataclass_fields__}, buffer)
    payload = buffer.getbuffer()
    header = {"format": FORMAT, "about": _digest(about), "sha256": hashlib.sha256(payload).hexdigest()}
    with atomic_path(path) as part, part.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(payload)


def _unfit(header: Any, about: Mapping[str, Any]) -> str | None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return "it is of another version"
    if header.get("about") != _digest(about):
        return "it was made for another request, by other weights, or otherwise computed"
    return None


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _moved(value: Any, device: torch.device | str, *, copy: bool = False) -> Any:
    """The same nest of lists and dicts with its tensors on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=copy)
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device, copy=copy) for item in value)
    if isinstance(value, dict):
        return {name: _moved(item, device, copy=copy) for name, item in value.items()}
    return value


def _is_on_device(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_on_device(item) for item in value)
    return isinstance(value, torch.Tensor) and value.device.type != "cpu"
