"""Two records are compared video by video, and the bound of the difference is on the safe side."""

from math import comb

import pytest

from benchmarks.quality.demo_quality import SEEN
from benchmarks.quality.paired import compare, lower_bound

WANTED = dict.fromkeys(SEEN, "red")


def record(colour: str) -> dict[str, object]:
    return {**dict.fromkeys(SEEN, "red"), "colour": colour, "wanted": WANTED}


def test_only_videos_of_both_records_are_compared() -> None:
    before = {"a": record("red"), "b": record("blue"), "c": record("red"), "only before": record("blue")}
    after = {"a": record("red"), "b": record("red"), "c": record("blue"), "only after": record("blue")}

    table = compare(before, after)

    assert table["colour"] | {"lower_bound": 0} == {
        **{"before": 2 / 3, "after": 2 / 3, "better": 1, "worse": 1, "lower_bound": 0, "n": 3}
    }
    assert table["shape"]["before"] == table["shape"]["after"] == 1.0


def test_the_bound_holds_in_about_19_of_20_cases_on_each_side() -> None:
    # all ways in which 10 of 100 pairs may differ when neither side is better
    misses = sum(comb(10, better) / 2**10 for better in range(11) if lower_bound(better, 10 - better, 100) > 0)
    assert misses < 0.05
    assert lower_bound(0, 0, 400) == pytest.approx(-0.0049, abs=1e-4)
    assert lower_bound(30, 5, 400) > 0 > lower_bound(5, 30, 400)
