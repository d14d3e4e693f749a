"""What a device leaves to others: what it cannot make, and what another one can resume.

It cannot make what it lacks files for: weights of a model, or LoRAs of requests. It tries again after a while:
meanwhile they may have come. A checkpoint fits the devices that have its fingerprint; on others its generation starts
over.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.core.fair_queue import Exclusions, Weights
from server.core.generation import Generation

_FIRST_SECONDS = 30.0
_LONGEST_SECONDS = 300.0
_MOST = 64
"""So many lacks, or fingerprints, are known of a device: of more the oldest are forgotten, and found out again."""

LEAVE_SECONDS = 2.0
"""So long a device leaves a generation to an idle one that can resume it, which takes it at once if it takes it."""

_MOST_LEFT = 256


@dataclass
class _Lack:
    why: str
    pause: float
    until: float


class Lacks:
    """The lacks of one device. A lack is of a whole model (`Weights` are then its id alone), or of one variant."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[str | Weights, _Lack] = {}

    def note(self, what: str | Weights, why: str) -> float:
        """Note that files for a model (its id) or for a variant are missing; returns the seconds until the next try."""
        before = self._found.pop(what, None)
        pause = _FIRST_SECONDS if before is None else min(2 * before.pause, _LONGEST_SECONDS)
        self._found[what] = _Lack(why, pause, self._clock() + pause)
        while len(self._found) > _MOST:
            del self._found[next(iter(self._found))]
        return pause

    def forget(self, what: str | Weights) -> None:
        """The files of a model, or of a variant, are there."""
        self._found.pop(what, None)

    def __bool__(self) -> bool:
        """Whether anything is known to be missing."""
        return bool(self._found)

    def of(self, weights: Weights) -> str | None:
        """Why the device cannot make generations that need these weights; None if that is not known of it."""
        found = self._found.get(weights.model) or self._found.get(weights)
        return None if found is None else found.why

    @property
    def exclusions(self) -> Exclusions:
        """What the device is not to take now."""
        now = self._clock()
        waiting = [what for what, lack in self._found.items() if lack.until > now]
        return Exclusions(
            frozenset(what for what in waiting if isinstance(what, str)),
            frozenset(what for what in waiting if not isinstance(what, str)),
        )

    @property
    def next_try(self) -> float | None:
        """Seconds until something may be tried again; None if nothing waits for that."""
        now = self._clock()
        return min((lack.until - now for lack in self._found.values() if lack.until > now), default=None)


class Fingerprints:
    """The fingerprints of what one device had loaded, which tell whether it can go on from a checkpoint."""

    def __init__(self) -> None:
        self._known: OrderedDict[frozenset[tuple[str, str]], None] = OrderedDict()

    def note(self, fingerprint: Mapping[str, str]) -> None:
        """The device has loaded something with this fingerprint."""
        self._known[_resumable(fingerprint)] = None
        self._known.move_to_end(_resumable(fingerprint))
        if len(self._known) > _MOST:
            self._known.popitem(last=False)

    def fit(self, fingerprint: Mapping[str, str]) -> bool:
        """Whether the device is known to go on from a checkpoint with this fingerprint."""
        return _resumable(fingerprint) in self._known

    def fit_more_than(self, other: "Fingerprints") -> bool:
        """Whether this device is known to fit something that the other one is not known to fit."""
        return bool(self._known.keys() - other._known.keys())


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The parts of two fingerprints for which a generation starts over."""
    return sorted({name for name, _ in _resumable(one) ^ _resumable(other)})


def _resumable(fingerprint: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    # a checkpoint does not depend on where the weights are
    return frozenset((name, value) for name, value in fingerprint.items() if name != "plan")


class Resumer(Protocol):
    """What is asked of a device that may resume a generation."""

    lacks: Lacks
    fingerprints: Fingerprints

    @property
    def is_idle(self) -> bool:
        """Whether it would take a generation now."""


class Resuming:
    """Which generations devices leave to an idle one that can resume them, each for `LEAVE_SECONDS` at most."""

    def __init__(self, devices: Callable[[], Sequence[Resumer]], clock: Callable[[], float] = time.monotonic) -> None:
        self._devices = devices
        self._clock = clock
        self._left: OrderedDict[tuple[str, int], float] = OrderedDict()
        """When each was left first, by its id and its attempts so far."""

    def others(self, device: Resumer) -> list[Resumer]:
        """The idle devices that may be able to resume what this one cannot."""
        return [
            each
            for each in self._devices()
            if each is not device and each.is_idle and each.fingerprints.fit_more_than(device.fingerprints)
        ]

    def seconds_left(self, generation: Generation, device: Resumer) -> float:
        """For how long a device is to leave a generation that it would take; 0: it takes it."""
        found = generation.fingerprint
        if found is None or generation.progress <= 0 or device.fingerprints.fit(found):
            return 0.0
        fitting = (other for other in self.others(device) if other.fingerprints.fit(found))
        if all(other.lacks.of(generation.weights) is not None for other in fitting):
            return 0.0
        now = self._clock()
        since = self._left.setdefault((generation.id, generation.attempt), now)
        if len(self._left) > _MOST_LEFT:
            self._left.popitem(last=False)
        return max(0.0, since + LEAVE_SECONDS - now)
