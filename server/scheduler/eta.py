"""Estimates when waiting generations will be done, from the state of the devices at one moment."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from pipelines.core.request import VideoParams
from server.core.errors import without_paths
from server.core.events import Live
from server.core.generation import Generation
from server.scheduler.device import Device

_MOST_REASONS = 8


class QueueEta:
    """Estimates of one moment, for the devices that take generations then; `others` may do so later.

    A long queue is mostly of a few kinds of videos, and the time of each kind is computed once.
    """

    def __init__(self, devices: Sequence[Device], others: Sequence[Device] = ()) -> None:
        self._devices = devices
        self._all = [*devices, *others]
        free = [device.free_in for device in devices]
        typical = [device.estimator.typical for device in devices]
        self._free = sorted(seconds for seconds in free if seconds is not None)
        known = [seconds for seconds in typical if seconds is not None]
        self._typical = fmean(known) if known and None not in free else None
        self._totals: dict[tuple[str, VideoParams], float] = {}

    def of(self, generation: Generation, place: int) -> Live | None:
        """When a generation at a place of the queue (1 is next) may be done; None if that cannot be estimated.

        Those before it are taken to be like the last ones made, each on the device that is free first. If no device can
        make it, this says why.
        """
        if (why := self._lacking(generation)) is not None:
            return Live(generation.progress, waits_for=why)
        if generation.params is None or self._typical is None:
            return None
        rounds, turn = divmod(place - 1, len(self._devices))
        wait = self._free[turn] + rounds * self._typical
        return Live(
            generation.progress, wait + (1 - generation.progress) * self._total(generation.model, generation.params)
        )

    def expected(self, model: str, params: VideoParams) -> float | None:
        """Seconds of a video that has not begun; None if no device has made one of its kind and about its size."""
        totals = [device.estimator.near_total(model, params) for device in self._devices]
        known = [seconds for seconds in totals if seconds is not None]
        return fmean(known) if known else None

    def wait(self, place: int) -> float | None:
        """Seconds until a generation at a place of the queue starts (1 is next); None if that cannot be estimated."""
        if not self._devices or len(self._free) < len(self._devices):
            return None
        rounds, turn = divmod(place - 1, len(self._devices))
        if rounds == 0:
            return self._free[turn]
        return None if self._typical is None else self._free[turn] + rounds * self._typical

    def _lacking(self, generation: Generation) -> str | None:
        """What each machine lacks for a generation; None if some device may be able to make it."""
        if not any(device.lacks for device in self._all):
            return None
        weights = generation.weights
        reasons = [device.lacks.of(weights) for device in self._all]
        found = dict.fromkeys(without_paths(reason) for reason in reasons if reason is not None)
        if None in reasons:
            return None
        several = f" So do {len(found) - _MOST_REASONS} more." if len(found) > _MOST_REASONS else ""
        return f"It waits, since every machine lacks files. {' '.join([*found][:_MOST_REASONS])}{several}"

    def _total(self, model: str, params: VideoParams) -> float:
        kind = model, replace(params, prompt="", negative_prompt="", seed=0)
        if kind not in self._totals:
            totals = [device.estimator.total(model, params) for device in self._devices]
            self._totals[kind] = fmean(seconds for seconds in totals if seconds is not None)
        return self._totals[kind]
