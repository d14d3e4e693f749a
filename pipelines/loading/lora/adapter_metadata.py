"""The adapter's configuration that diffusers stores in the header of a LoRA file, with PEFT's names.

Source: PEFT's `LoraConfig`. The scale of a layer is alpha divided by its rank, or by the root of its rank with rslora.
Ranks are those of the factors themselves, so `r` and `rank_pattern` are not read.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError

FIELD = "lora_adapter_metadata"
"""The field of the header, a JSON object."""

MAX_PATTERNS = 4096
"""Limit of the patterns in a file."""

MAX_WILDCARDS = 100
"""Limit of the wildcards in all patterns of a file: matching one takes long if a pattern has many."""

_WILDCARD = re.compile(r"\.\*|\\d\+")
_PATTERN = re.compile(r"\^?(?:[\w|.-]|\\\.|\\d\+?|\.\*){1,300}\$?")


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """The alphas of a file's layers. `alpha` is None if the file's metadata do not say it."""

    alpha: float | None = None
    patterns: tuple[tuple[re.Pattern[str], float], ...] = ()
    uses_rslora: bool = False

    def scale(self, layer: str, rank: int) -> float:
        """Return the factor of a layer's change: 1 without an alpha."""
        # as PEFT matches them: on the end of the layer's name, the first that fits
        alpha = next((alpha for pattern, alpha in self.patterns if pattern.fullmatch(layer)), self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (sqrt(rank) if self.uses_rslora else rank)


def read_adapter_metadata(path: Path, header: Mapping[str, str], parts: Sequence[str]) -> AdapterMetadata:
    """Return the metadata in a file's header.

    Its fields may start with a part's name: those of the first of `parts` that has any are used.

    Raises UnsupportedModelError that names the file and the field.
    """
    stored = header.get(FIELD)
    if stored is None:
        return AdapterMetadata()
    try:
        fields = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{path} has {FIELD} that is not JSON.") from error
    if not isinstance(fields, dict):
        raise UnsupportedModelError(f"{path} has {FIELD} that is not a JSON object.")
    if part := next((each for each in parts if any(name.startswith(f"{each}.") for name in fields)), None):
        fields = {name.removeprefix(f"{part}."): value for name, value in fields.items() if name.startswith(f"{part}.")}
    kind = fields.get("peft_type", "LORA")
    if kind != "LORA" or fields.get("use_dora"):
        shown = "DoRA" if kind == "LORA" else str(kind)[:50]
        raise UnsupportedModelError(f"{path} is a {shown}, which is not supported: {FIELD} says so.")
    alpha = fields.get("lora_alpha")
    return AdapterMetadata(
        alpha=None if alpha is None else _alpha(path, "lora_alpha", alpha),
        patterns=_patterns(path, fields.get("alpha_pattern") or {}),
        uses_rslora=bool(fields.get("use_rslora")),
    )


def _patterns(path: Path, patterns: Any) -> tuple[tuple[re.Pattern[str], float], ...]:
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise UnsupportedModelError(
            f"{path} has {FIELD} whose alpha_pattern is not an object of at most {MAX_PATTERNS} entries."
        )
    _check_patterns(path, patterns)
    return tuple(
        (re.compile(rf"(.*\.)?({pattern})"), _alpha(path, f"alpha_pattern {pattern}", alpha))
        for pattern, alpha in patterns.items()
    )


def _check_patterns(path: Path, patterns: Collection[str]) -> None:
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern) or len(_WILDCARD.findall(pattern)) > 2:
            raise UnsupportedModelError(
                f"{path} has {FIELD} whose alpha_pattern {pattern[:100]!r} is not supported: it may have names, |, and "
                "\\d+ or .* at most twice."
            )
    if sum(len(_WILDCARD.findall(pattern)) for pattern in patterns) > MAX_WILDCARDS:
        raise UnsupportedModelError(
            f"{path} has {FIELD} whose alpha_pattern has more than {MAX_WILDCARDS} wildcards, which is the limit."
        )


def _alpha(path: Path, field: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < abs(value) < 1e6 or not isfinite(value):
        raise UnsupportedModelError(f"{path} has {field} = {str(value)[:50]}, which is not an alpha.")
    return float(value)
