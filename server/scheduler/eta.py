"""When generations that wait may be done, as the devices are at one moment."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from pipelines.core.model import VideoParams
from server.core.events import Live
from server.core.generation import Generation
from server.scheduler.executor import Lane


class Outlook:
    """What can be told at one moment, given the lanes that take generations then.

    A long queue is mostly of a few kinds, and what each kind takes is worked out once.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        free, typical = [lane.free_in for lane in lanes], [lane.estimator.typical for lane in lanes]
        self._free = sorted(seconds for seconds in free if seconds is not None)
        known = [seconds for seconds in typical if seconds is not None]
        self._typical = fmean(known) if known and None not in free else None
        self._totals: dict[tuple[str, VideoParams], float] = {}

    def of(self, generation: Generation, place: int) -> Live | None:
        """When a generation at a place of the queue (1 is next) may be done; None if nobody can tell.

        Those before it are taken to be as those made of late, and to go to whichever device is free first.
        """
        if generation.params is None or self._typical is None:
            return None
        rounds, turn = divmod(place - 1, len(self._lanes))
        wait = self._free[turn] + rounds * self._typical
        return Live(
            generation.progress, wait + (1 - generation.progress) * self._total(generation.model, generation.params)
        )

    def _total(self, model: str, params: VideoParams) -> float:
        kind = model, replace(params, prompt="", negative_prompt="", seed=0)
        if kind not in self._totals:
            totals = [lane.estimator.total(model, params) for lane in self._lanes]
            self._totals[kind] = fmean(seconds for seconds in totals if seconds is not None)
        return self._totals[kind]
