"""Common NVIDIA cards by name: memory, compute capability, and the rates that NVIDIA publishes for them."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from pipelines.core.errors import UnknownCardError


@dataclass(frozen=True, slots=True)
class Card:
    """A card as NVIDIA describes it.

    `memory` in GB of 2^30 bytes; `tflops` are those of dense bf16 products with fp32 sums; `bandwidth` of its memory in
    GB (10^9 bytes) per second. For GeForce cards `tflops` is 512 operations per multiprocessor and cycle at the
    published boost clock, which gives the figures of NVIDIA's architecture papers for those that these list.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    tflops: float
    bandwidth: float

    @property
    def title(self) -> str:
        """Name and memory, such as "RTX 3060 12GB"."""
        return f"{self.name} {self.memory}GB"


CARDS = (
    Card("RTX 3050", 8, (8, 6), 18.2, 224),
    Card("RTX 3060", 12, (8, 6), 25.5, 360),
    Card("RTX 3060 Ti", 8, (8, 6), 32.4, 448),
    Card("RTX 3070", 8, (8, 6), 40.6, 448),
    Card("RTX 3070 Ti", 8, (8, 6), 43.5, 608),
    Card("RTX 3080", 10, (8, 6), 59.5, 760),
    Card("RTX 3080", 12, (8, 6), 61.3, 912),
    Card("RTX 3080 Ti", 12, (8, 6), 68.2, 912),
    Card("RTX 3090", 24, (8, 6), 71.2, 936),
    Card("RTX 3090 Ti", 24, (8, 6), 80.0, 1008),
    Card("RTX 4060", 8, (8, 9), 30.2, 272),
    Card("RTX 4060 Ti", 8, (8, 9), 44.1, 288),
    Card("RTX 4060 Ti", 16, (8, 9), 44.1, 288),
    Card("RTX 4070", 12, (8, 9), 58.3, 504),
    Card("RTX 4070 Super", 12, (8, 9), 71.0, 504),
    Card("RTX 4070 Ti", 12, (8, 9), 80.2, 504),
    Card("RTX 4070 Ti Super", 16, (8, 9), 88.2, 672),
    Card("RTX 4080", 16, (8, 9), 97.5, 717),
    Card("RTX 4080 Super", 16, (8, 9), 104.4, 736),
    Card("RTX 4090", 24, (8, 9), 165.2, 1008),
    Card("RTX 5060", 8, (12, 0), 38.4, 448),
    Card("RTX 5060 Ti", 8, (12, 0), 47.4, 448),
    Card("RTX 5060 Ti", 16, (12, 0), 47.4, 448),
    Card("RTX 5070", 12, (12, 0), 61.7, 672),
    Card("RTX 5070 Ti", 16, (12, 0), 87.9, 896),
    Card("RTX 5080", 16, (12, 0), 112.6, 960),
    Card("RTX 5090", 32, (12, 0), 209.5, 1792),
    Card("RTX A4000", 16, (8, 6), 76.7, 448),
    Card("RTX A5000", 24, (8, 6), 111.1, 768),
    Card("RTX A6000", 48, (8, 6), 154.8, 768),
    Card("RTX 6000 Ada", 48, (8, 9), 364.2, 960),
    Card("A40", 48, (8, 6), 149.7, 696),
    Card("A100", 40, (8, 0), 312.0, 1555),
    Card("A100", 80, (8, 0), 312.0, 2039),
    Card("L40", 48, (8, 9), 181.0, 864),
    Card("L40S", 48, (8, 9), 362.0, 864),
    Card("H100 PCIe", 80, (9, 0), 756.0, 2000),
    Card("H100", 80, (9, 0), 989.0, 3350),
    Card("H200", 141, (9, 0), 989.0, 4800),
)
"""The cards whose minutes can be estimated.

Left out are cards without bf16 units, and small ones for servers (A10, L4): their power limit keeps them far below the
published rates.
"""

_WORDS = re.compile(r"nvidia|geforce|rtx|tesla|quadro|graphics|card|gpu|generation|sxm\d?|hbm\d?e?")
_MEMORY = re.compile(r"(\d+)\s*gi?b")
_TOLERANCE = 0.1
"""A driver reports up to so much less memory than the card's name says."""


def find_card(written: str, memory: float | None = None) -> Card:
    """The card of that name, as a person or its driver writes it; `memory` (GB) chooses if there are several.

    A size in the name must be the card's. Raises UnknownCardError, which names similar cards.
    """
    stated = _MEMORY.search(written.lower())
    key = _key(written)
    named = [card for card in CARDS if _key(card.name) == key]
    if len(named) == 1 and not stated:
        return named[0]
    size = float(stated[1]) if stated else memory
    fitting = [card for card in named if size is not None and abs(card.memory - size) <= _TOLERANCE * card.memory]
    if len(fitting) == 1:
        return fitting[0]
    if named:
        raise UnknownCardError(f"{written} names no single card: choose {' or '.join(card.title for card in named)}.")
    by_key = {_key(card.name): card.name for card in CARDS}
    near = [by_key[each] for each in get_close_matches(key, by_key, n=4, cutoff=0.5)] or ["RTX 3060", "RTX 4090"]
    raise UnknownCardError(
        f"No card named {written} is known here. Similar names: {', '.join(near)}. For another card, give its memory "
        "with --vram and its compute capability with --capability."
    )


def _key(written: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _WORDS.sub("", _MEMORY.sub("", written.lower())))
