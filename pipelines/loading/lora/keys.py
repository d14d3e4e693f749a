"""The names of a LoRA file's tensors: which layer each is for, and what of it.

Sources: PEFT's `lora_A`, `lora_B` with or without an adapter's name; kohya's `lora_down`, `lora_up`, `alpha`; the older
`lora.down`, `lora.up` of diffusers; the additions `diff`, `diff_b` of ComfyUI (`comfy/lora.py`), which are `w_norm` and
`b_norm` in LyCORIS, and `diff_m` of LightX2V (`tools/extract/lora_extractor.py`).
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipelines.core.errors import UnsupportedModelError
from pipelines.models.family import LoraLayout

SHOWN = 3
"""So many names are listed in a message."""

_MAX_NAME = 300


class Piece(StrEnum):
    """What a tensor is to its layer."""

    DOWN = "first factor"
    UP = "second factor"
    UP_BIAS = "bias of the second factor"
    ALPHA = "alpha"
    WEIGHT = "addition to the weight"
    BIAS = "addition to the bias"
    MODULATION = "addition to the modulation"


_ENDINGS = {
    Piece.DOWN: r"(?:lora_A(?:\.[\w-]+)??|lora_down|lora\.down)\.weight",
    Piece.UP: r"(?:lora_B(?:\.[\w-]+)??|lora_up|lora\.up)\.weight",
    Piece.UP_BIAS: r"(?:lora_B(?:\.[\w-]+)??|lora_up|lora\.up)\.bias",
    Piece.ALPHA: r"alpha",
    Piece.WEIGHT: r"diff|w_norm",
    Piece.BIAS: r"diff_b|b_norm",
    Piece.MODULATION: r"diff_m",
}
_PIECES = {piece: re.compile(rf"([\w.-]+?)\.(?:{ending})") for piece, ending in _ENDINGS.items()}

_OTHER_ADAPTERS = {
    "DoRA": re.compile(r"\.(?:dora_scale|lora_magnitude_vector)\b"),
    "LoKr": re.compile(r"\.lokr_"),
    "LoHa": re.compile(r"\.hada_"),
    "GLoRA": re.compile(r"\.(?:glora_|[ab][12]\.weight$)"),
    "OFT": re.compile(r"\.oft_"),
    "BOFT": re.compile(r"\.boft_"),
    "IA3": re.compile(r"\.ia3_"),
    "LoCon with a third factor": re.compile(r"\.lora_mid\b"),
}


@dataclass(frozen=True, slots=True)
class Key:
    """A tensor's name in the file, the part that its prefix names, the layer by diffusers' name, and its piece."""

    name: str
    part: str | None
    layer: str
    piece: Piece


def read_keys(path: Path, names: Iterable[str], layout: LoraLayout, parts: Collection[str]) -> list[Key]:
    """Return the keys of a file for `parts`, whose names may stand first in a key.

    Raises UnsupportedModelError that names the file, and the keys of another kind of adapter or of unknown ones.
    """
    names = sorted(names)
    for kind, pattern in _OTHER_ADAPTERS.items():
        if others := [name for name in names if pattern.search(name[:_MAX_NAME])]:
            raise UnsupportedModelError(f"{path} is a {kind}, which is not supported: it has {listed(others)}.")
    found = [_key(name, layout, parts) for name in names]
    if unknown := [name for name, key in zip(names, found, strict=True) if key is None]:
        raise UnsupportedModelError(f"{path} is not a LoRA file that can be merged: it has {listed(unknown)}.")
    return [key for key in found if key is not None]


def listed(names: Collection[str]) -> str:
    """Return the first names, and the number of the others."""
    shown = ", ".join(name[:_MAX_NAME] for name in sorted(names)[:SHOWN])
    others = len(names) - SHOWN
    return f"{shown} and {others} other{'s' if others > 1 else ''}" if others > 0 else shown


def _key(name: str, layout: LoraLayout, parts: Collection[str]) -> Key | None:
    if len(name) > _MAX_NAME:
        return None
    part, rest = _without_prefixes(name, layout.prefixes, parts)
    for piece, pattern in _PIECES.items():
        if match := pattern.fullmatch(rest):
            layer = layout.layer(f"{match[1]}.modulation" if piece is Piece.MODULATION else match[1])
            return None if layer is None else Key(name, part, layer, piece)
    return None


def _without_prefixes(name: str, prefixes: Collection[str], parts: Collection[str]) -> tuple[str | None, str]:
    """Return the part that a name starts with, if any, and the name without it and without prefixes."""
    found = None
    while True:
        part = next((each for each in parts if name.startswith(f"{each}.")), None)
        prefix = next((each for each in prefixes if name.startswith(each)), "") if part is None else f"{part}."
        if not prefix:
            return found, name
        found, name = part or found, name.removeprefix(prefix)
