"""Attention on a processor with bf16 units: some queries at a time, by plain matrix products.

Torch's own kernel for processors makes little use of these units; from a few thousand tokens on, two products with a
softmax between them are quicker (`python -m benchmarks.attention`). Below that its kernel is kept.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

LONG = 4096
"""From how many keys on it pays."""

SCORES = 2**21
"""How many scores of a head are held at a time: 4 MiB, about what a core's caches hold."""


def fast_attention(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which attention runs as is fastest on a device, in a dtype."""
    if device.type == "cpu" and dtype is torch.bfloat16:
        return _ByProducts()
    return nullcontext()


class _ByProducts(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and _is_plain(args, kwargs):
            query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            if query.dtype is torch.bfloat16 and key.shape[-2] >= LONG:
                return by_products(query, key, value)
        return func(*args, **kwargs)


def _is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether no mask, dropout or scale of its own is asked for."""
    others = {name: value for name, value in kwargs.items() if name not in ("query", "key", "value")}
    return len(args) <= 3 and not any(others.values())


def by_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of (…, queries, dim) to (…, keys, dim), in their dtype."""
    # products are quicker on what lies together: so copies, and scaling part by part
    scale, keys, value = query.shape[-1] ** -0.5, key.contiguous().transpose(-1, -2), value.contiguous()
    rows = max(1, SCORES // key.shape[-2])
    parts = [torch.softmax((part * scale) @ keys, -1) @ value for part in query.split(rows, dim=-2)]
    return torch.cat(parts, dim=-2)
