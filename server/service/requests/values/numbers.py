"""Numbers in request bodies, and their limits."""

import math
from typing import Any

from pipelines.core.request import MAX_SEED
from pipelines.models.api_table import Parameter


def limits_of(parameter: Parameter) -> tuple[float, float]:
    """The inclusive limits of a number; infinite where it has none."""
    # the model page states no range for the seed; doubles, which JSON readers use, are exact up to this
    low, high = (0, MAX_SEED) if parameter.name == "seed" else (-math.inf, math.inf)
    return (
        low if parameter.minimum is None else parameter.minimum,
        high if parameter.maximum is None else parameter.maximum,
    )


def as_integer(value: Any) -> int | None:
    """A value of JSON as a whole number; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def as_number(value: Any) -> float | None:
    """A value of JSON as a finite number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # isfinite would fail on an integer that is too large for a float
    return value if isinstance(value, int) or math.isfinite(value) else None
