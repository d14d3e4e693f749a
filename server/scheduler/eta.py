"""When generations that wait may be done, as the devices are at one moment."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from pipelines.core.request import VideoParams
from server.core.events import Live
from server.core.generation import Generation
from server.scheduler.executor import DeviceExecutor


class QueueEta:
    """What can be told at one moment, given the lanes that take generations then.

    A long queue is mostly of a few kinds, and what each kind takes is worked out once.
    """

    def __init__(self, executors: Sequence[DeviceExecutor]) -> None:
        self._executors = executors
        free, typical = (
            [executor.free_in for executor in executors],
            [executor.estimator.typical for executor in executors],
        )
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
        rounds, turn = divmod(place - 1, len(self._executors))
        wait = self._free[turn] + rounds * self._typical
        return Live(
            generation.progress, wait + (1 - generation.progress) * self._total(generation.model, generation.params)
        )

    def _total(self, model: str, params: VideoParams) -> float:
        kind = model, replace(params, prompt="", negative_prompt="", seed=0)
        if kind not in self._totals:
            totals = [executor.estimator.total(model, params) for executor in self._executors]
            self._totals[kind] = fmean(seconds for seconds in totals if seconds is not None)
        return self._totals[kind]
