"""Saves the state of a denoising loop, so that a generation continues after its process was killed.

A checkpoint is one file: a line of JSON with the format, a digest of everything the generation depends on and the
checksum of the rest; then the rest, written by torch. It is a few times as large as the latents: 34 MB at 480p and 81
frames.
"""

import hashlib
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipelines.core.errors import GenerationSuspended
from pipelines.core.files import atomic_path
from pipelines.core.progress import CancelCheck
from pipelines.stages.guidance import Guidance

FORMAT = 2
"""Version of the file format. Files of another version are not read."""

_STORED_NAMES = {"guidance": "passes"}
"""Names in the file of the fields that were renamed since format 2 was fixed."""

log = logging.getLogger("paddock.checkpoint")


@dataclass(frozen=True, slots=True)
class DenoisingState:
    """The state of a denoising loop after `step` steps, in host memory.

    `latents` (1, channels, t, h, w) in fp32 are the input of the next step. `scheduler` holds the scheduler's
    attributes; those named in `on_device` belong on the device. `generator` is the state of the CPU's random generator,
    `guidance` that of `Guidance`. `seconds` is the working time of the generation so far, over all its attempts.
    `tensors` has what the loop carries besides the latents, by the pipeline's names; the file has it only if there are
    any.
    """

    step: int
    latents: torch.Tensor
    scheduler: dict[str, Any]
    on_device: list[str]
    generator: torch.Tensor
    guidance: dict[str, Any]
    seconds: float
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def capture(
        cls,
        scheduler: Any,
        step: int,
        tensors: Mapping[str, torch.Tensor],
        generator: torch.Generator,
        guidance: Guidance,
        seconds: float,
    ) -> "DenoisingState":
        """Copy the state of a running denoising loop, which carries `tensors` from step to step."""
        others = {name: tensor for name, tensor in tensors.items() if name != "latents"}
        # the configuration is not state: it comes with the weights
        state = {name: value for name, value in vars(scheduler).items() if name != "_internal_dict"}
        return cls(
            step=step,
            latents=_moved(tensors["latents"], "cpu", copy=True),
            scheduler=_moved(state, "cpu", copy=True),
            on_device=[name for name, value in state.items() if _is_on_device(value)],
            generator=generator.get_state(),
            guidance=_moved(guidance.state(), "cpu", copy=True),
            seconds=seconds,
            tensors=_moved(others, "cpu", copy=True),
        )

    def restore(self, scheduler: Any, guidance: Guidance, device: torch.device) -> None:
        """Give the state to a scheduler whose timesteps are set, and to the guidance of the new loop."""
        guidance.restore(_moved(self.guidance, device))
        for name, value in self.scheduler.items():
            setattr(scheduler, name, _moved(value, device if name in self.on_device else "cpu"))

    def stored(self) -> dict[str, Any]:
        """Return the fields by their names in the file."""
        fields = {_STORED_NAMES.get(name, name): getattr(self, name) for name in self.__dataclass_fields__}
        return fields if self.tensors else {name: value for name, value in fields.items() if name != "tensors"}

    @classmethod
    def from_stored(cls, fields: Mapping[str, Any]) -> "DenoisingState":
        """Return the state whose `stored` fields these are."""
        names = {stored: name for name, stored in _STORED_NAMES.items()}
        return cls(**{names.get(stored, stored): value for stored, value in fields.items()})


class Checkpoint:
    """The checkpoint file of one run of a generation, written in the background every `interval` seconds.

    The run continues from that file, or while there is none from the one at `resume_from`, which an earlier run left.
    Once `suspended()` is true, the state is written a last time and the generation ends. `on_saved` is called from
    another thread, with the fraction (0 … 1) of the generation that the file holds. Use one object for one run.
    """

    def __init__(
        self,
        path: Path,
        interval: float,
        suspended: CancelCheck = lambda: False,
        on_saved: Callable[[float], None] = lambda _: None,
        resume_from: Path | None = None,
    ) -> None:
        self._path = path
        self._resume_from = resume_from
        self._interval = interval
        self._suspended = suspended
        self._on_saved = on_saved
        self._due = time.monotonic() + interval
        self._writer: threading.Thread | None = None

    def load(self, depends_on: Mapping[str, Any]) -> DenoisingState | None:
        """Return the saved state; None if there is none, or none of a generation that depends on exactly this."""
        own = _read_file(self._path, depends_on)
        # a run that ran out of memory loads again what it has saved itself
        return own if own is not None or self._resume_from is None else _read_file(self._resume_from, depends_on)

    def after_step(
        self, depends_on: Mapping[str, Any], fraction: float, capture: Callable[[], DenoisingState], *, is_last: bool
    ) -> None:
        """Save the state after a step if it is due. Raises GenerationSuspended if the generation has to end here."""
        is_suspended = self._suspended()
        # the state before decoding is always saved, so that only the decoding has to be repeated
        if is_last or is_suspended or (time.monotonic() >= self._due and not self._is_writing):
            self.finish()
            state = capture()
            self._writer = threading.Thread(target=self._write, args=(depends_on, fraction, state), name="checkpoint")
            self._writer.start()
            self._due = time.monotonic() + self._interval
        if is_suspended:
            self.finish()
            raise GenerationSuspended

    def finish(self) -> None:
        """Wait for the file that is being written, if any."""
        if self._writer is not None:
            self._writer.join()

    @property
    def _is_writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _write(self, depends_on: Mapping[str, Any], fraction: float, state: DenoisingState) -> None:
        try:
            _write_file(self._path, depends_on, state)
        except OSError as error:
            # the generation can finish without a checkpoint
            log.warning("no checkpoint was saved: %s", error)
        else:
            self._on_saved(fraction)


def _read_file(path: Path, depends_on: Mapping[str, Any]) -> DenoisingState | None:
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            reason = _mismatch(header, depends_on)
            payload = b"" if reason else file.read()
        if reason is None and hashlib.sha256(payload).hexdigest() != header.get("sha256"):
            reason = "it is damaged"
        if reason is None:
            return DenoisingState.from_stored(torch.load(io.BytesIO(payload), weights_only=True))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = f"it cannot be read: {error}"
    log.warning("a checkpoint is ignored and its generation starts over: %s", reason)
    return None


def _write_file(path: Path, depends_on: Mapping[str, Any], state: DenoisingState) -> None:
    buffer = io.BytesIO()
    torch.save(state.stored(), buffer)
    payload = buffer.getbuffer()
    header = {"format": FORMAT, "about": _digest(depends_on), "sha256": hashlib.sha256(payload).hexdigest()}
    with atomic_path(path) as part, part.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(payload)


def _mismatch(header: Any, depends_on: Mapping[str, Any]) -> str | None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return "it is of another version"
    if header.get("about") != _digest(depends_on):
        return "it belongs to another request, other weights or another way of computing"
    return None


def _digest(depends_on: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _moved(value: Any, device: torch.device | str, *, copy: bool = False) -> Any:
    """Return nested lists and dicts with all their tensors on a device."""
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
