"""Attention on a CPU, where torch's own kernel is slow.

On a CPU with bf16 units, attention is computed for some queries at a time by plain matrix products. torch's kernel
makes little use of these units: from a few thousand keys on, two products with a softmax between them are faster
(`python -m benchmarks.cpu.attention`). Below that, torch's kernel is used.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch.nn import functional

MIN_KEYS = 4096
"""The number of keys from which matrix products are faster."""

MAX_SCORES = 2**21
"""Limit of the scores of a head that are computed at a time: 4 MiB, about the size of a core's caches."""

AttentionFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes a query (…, queries, dim), keys and values (…, keys, dim); returns outputs shaped like the query."""

_torch_attention = functional.scaled_dot_product_attention


def fast_attention(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return a context in which attention uses the fastest way on a device, in a dtype."""
    if device.type == "cpu" and dtype is torch.bfloat16:
        return replace_attention(matmul_attention, MIN_KEYS)
    return nullcontext()


@contextmanager
def replace_attention(attend: AttentionFunction, min_keys: int) -> Iterator[None]:
    """A context in which `attend` computes plain attention over `min_keys` keys or more; torch computes the rest.

    torch's function is replaced for the whole process. A mode of torch's would replace it for one thread only, but
    cannot be compiled.
    """
    functional.scaled_dot_product_attention = _dispatcher(attend, min_keys)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = _torch_attention


@cache
def _dispatcher(attend: AttentionFunction, min_keys: int) -> Callable[..., torch.Tensor]:
    """Return one function for the same arguments, because each new one would be compiled again."""

    def scaled_dot_product_attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any, **named: Any
    ) -> torch.Tensor:
        if not others and _is_plain(named) and key.shape[-2] >= min_keys:
            return attend(query, key, value)
        return _torch_attention(query, key, value, *others, **named)

    return scaled_dot_product_attention


def _is_plain(named: dict[str, Any]) -> bool:
    """Return whether the arguments set no mask, no dropout and no scale."""
    return not any(isinstance(value, torch.Tensor) or value for value in named.values())


def matmul_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute attention of (…, queries, dim) to (…, keys, dim) by matrix products, in their dtype."""
    # products are faster on contiguous tensors
    scale, keys, value = query.shape[-1] ** -0.5, key.contiguous().transpose(-1, -2), value.contiguous()
    rows = max(1, MAX_SCORES // key.shape[-2])
    parts = [torch.softmax((part * scale) @ keys, -1) @ value for part in query.split(rows, dim=-2)]
    return torch.cat(parts, dim=-2)
