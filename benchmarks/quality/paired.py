"""Compares two records of `benchmarks.quality.demo_quality`, video by video, for the same prompts and seeds.

python -m benchmarks.quality.paired BEFORE.jsonl AFTER.jsonl

For each attribute: the share of videos that show it as requested, before and after, and the lower bound of the 95 %
confidence interval of the difference. It prints a table and one line of JSON.
"""

import argparse
import json
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

from benchmarks.quality.demo_quality import SEEN

Z = 1.96


def lower_bound(better: int, worse: int, count: int) -> float:
    """Return the lower bound of the difference of two paired shares.

    `better` and `worse` count the pairs that differ, of `count` pairs. Source: A. Agresti and Y. Min, "Simple improved
    confidence intervals for comparing matched proportions" (2005): half a pair is added to each of the four cells.
    """
    gained, lost, pairs = better + 0.5, worse + 0.5, count + 2
    difference = (gained - lost) / pairs
    return difference - Z * sqrt(gained + lost - (gained - lost) ** 2 / pairs) / pairs


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the comparison by attribute, over the videos that both have. Records are by their keys."""
    keys = sorted(before.keys() & after.keys())
    result = {}
    for name in SEEN:
        pairs = [tuple(side[key][name] == side[key]["wanted"][name] for side in (before, after)) for key in keys]
        better, worse = pairs.count((False, True)), pairs.count((True, False))
        result[name] = {
            "before": sum(old for old, _ in pairs) / max(1, len(pairs)),
            "after": sum(new for _, new in pairs) / max(1, len(pairs)),
            "better": better,
            "worse": worse,
            "lower_bound": round(lower_bound(better, worse, len(pairs)), 4),
            "n": len(pairs),
        }
    return result


def read(path: Path) -> dict[str, Any]:
    """Return the records of videos with attributes, by their keys."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {record["key"]: record for record in records if "wanted" in record}


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    result = compare(read(options.before), read(options.after))
    for name, row in result.items():
        print(
            f"{name:12} {row['before']:6.1%} → {row['after']:6.1%}, lower bound of the difference "
            f"{100 * row['lower_bound']:+.1f} points ({row['n']} videos, {row['better']} better, {row['worse']} worse)"
        )
    print(json.dumps({"benchmark": "paired", "before": options.before.name, "after": options.after.name, **result}))


if __name__ == "__main__":
    main()
