"""The step cache skips steps only where its extrapolation is accurate."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from pipelines.stages.step_cache import MAX_CONSECUTIVE_SKIPS, StepCache

SIGMAS = [1.0 - 0.1 * step for step in range(10)] + [0.0]


def course(cache: StepCache, output: Callable[[float], torch.Tensor], until: int = 10) -> list[bool]:
    """Whether each of ten steps was skipped."""
    skipped = []
    for sigma, following in list(pairwise(SIGMAS))[:until]:
        skipped.append(cache.can_skip(("cond",), sigma, following))
        if skipped[-1]:
            cache.extrapolate("cond", sigma)
            cache.end_skipped_step()
        else:
            cache.record("cond", sigma, output(sigma))
            cache.end_computed_step(None)
    return skipped


def still(sigma: float) -> torch.Tensor:
    return torch.ones(4)


def test_constant_outputs_are_skipped_except_the_first_the_last_and_too_many_in_a_row() -> None:
    skipped = course(StepCache(1e-6), still)

    assert skipped[:3] == [False] * 3
    assert not skipped[-1]
    runs = "".join("x" if step else " " for step in skipped).split()
    assert max(map(len, runs)) == MAX_CONSECUTIVE_SKIPS


def test_random_outputs_are_never_skipped() -> None:
    dice = torch.Generator().manual_seed(0)

    assert not any(course(StepCache(0.05), lambda _: torch.randn(64, generator=dice)))


def test_an_output_is_extrapolated_by_half_of_its_last_movement() -> None:
    cache = StepCache(1.0)
    cache.record("cond", 1.0, torch.tensor([0.0]))
    cache.record("cond", 0.8, torch.tensor([2.0], dtype=torch.bfloat16))

    guess = cache.extrapolate("cond", 0.6)

    assert guess.tolist() == [3.0]
    assert guess.dtype is torch.bfloat16


def test_the_error_is_that_of_the_guided_velocity() -> None:
    def cache_after(cond: float, scale: float) -> StepCache:
        cache = StepCache(0.1)
        for sigma, output in ((1.0, 1.0), (0.9, 1.0), (0.8, cond)):
            cache.record("cond", sigma, torch.tensor([output]))
            cache.record("uncond", sigma, torch.tensor([1.0]))
            cache.end_computed_step(scale)
        return cache

    names = ("cond", "uncond")
    # an error of 0.2 / 1.2 in a step of 0.1 is within the tolerance; 1.0 / 2.0 in a step of 0.25 is not
    assert cache_after(1.2, 1.0).can_skip(names, 0.7, 0.6)
    assert not cache_after(1.2, 5.0).can_skip(names, 0.7, 0.45)
    assert not cache_after(1.2, 1.0).can_skip((*names, "other"), 0.7, 0.6)


@pytest.mark.parametrize("until", range(1, 10))
def test_a_restored_state_skips_the_same_steps(until: int) -> None:
    def curve(sigma: float) -> torch.Tensor:
        return torch.tensor([sigma**2, 1 - sigma])

    whole = course(StepCache(0.02), curve)
    first, second = StepCache(0.02), StepCache(0.02)
    before = course(first, curve, until)
    second.restore(first.state())

    after = []
    for sigma, following in list(pairwise(SIGMAS))[until:]:
        after.append(second.can_skip(("cond",), sigma, following))
        if after[-1]:
            second.end_skipped_step()
        else:
            second.record("cond", sigma, curve(sigma))
            second.end_computed_step(None)
    assert before + after == whole
    assert any(whole)


def test_after_a_reset_steps_are_computed_again() -> None:
    cache = StepCache(1.0)
    course(cache, still, 4)

    cache.reset()

    assert course(cache, still)[:3] == [False] * 3
