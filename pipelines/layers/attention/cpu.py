"""Attention in place of torch's own, where another is faster.

On a processor with bf16 units it is computed some queries at a time, by plain matrix products: torch's own kernel makes
little use of these units, and from a few thousand tokens on, two products with a softmax between them are quicker
(`python -m benchmarks.cpu.attention`). Below that its kernel is kept.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch.nn import functional

LONG = 4096
"""From how many keys on it pays."""

SCORES = 2**21
"""How many scores of a head are held at a time: 4 MiB, about what a core's caches hold."""

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A query (…, queries, dim), keys and values (…, keys, dim) → outputs like the query."""

_torchs = functional.scaled_dot_product_attention


def fast_attention(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which attention runs as is fastest on a device, in a dtype."""
    if device.type == "cpu" and dtype is torch.bfloat16:
        return instead(by_products, LONG)
    return nullcontext()


@contextmanager
def instead(attend: Attend, least_keys: int) -> Iterator[None]:
    """A context in which `attend` computes plain attention to so many keys or more, and torch all other.

    torch's function is another one meanwhile, for the whole process: a mode of torch's would do it for a thread, but
    its compiler cannot see through one.
    """
    functional.scaled_dot_product_attention = _either(attend, least_keys)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = _torchs


@cache
def _either(attend: Attend, least_keys: int) -> Callable[..., torch.Tensor]:
    """One function for the same arguments: for each new one a compiler would begin anew."""

    def scaled_dot_product_attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any, **named: Any
    ) -> torch.Tensor:
        if not others and not _asks_for_more(named) and key.shape[-2] >= least_keys:
            return attend(query, key, value)
        return _torchs(query, key, value, *others, **named)

    return scaled_dot_product_attention


def _asks_for_more(named: dict[str, Any]) -> bool:
    """Whether it is for a mask, dropout or a scale of its own."""
    return any(isinstance(value, torch.Tensor) or value for value in named.values())


def by_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of (…, queries, dim) to (…, keys, dim), in their dtype."""
    # products are quicker on what lies together: so copies, and scaling part by part
    scale, keys, value = query.shape[-1] ** -0.5, key.contiguous().transpose(-1, -2), value.contiguous()
    rows = max(1, SCORES // key.shape[-2])
    parts = [torch.softmax((part * scale) @ keys, -1) @ value for part in query.split(rows, dim=-2)]
    return torch.cat(parts, dim=-2)
