"""Computes a tensor for some of a video's tokens at a time."""

from collections.abc import Callable, Iterator

import torch

ROWS = 16
"""Rows that a CPU computes together in a matrix product: the bytes change if a slice divides them, or has very few."""


def token_slices(values: torch.Tensor, slice_tokens: int) -> Iterator[slice]:
    """Yield slices of the tokens of `values` (batch, tokens, …): up to `slice_tokens` of the whole batch, 0 for all.

    They are about equal and, where possible, multiples of `ROWS`.
    """
    batch, tokens = values.shape[:2]
    most = max(1, slice_tokens // batch) if slice_tokens else tokens
    count = -(-tokens // most)
    step = min(most, -(-tokens // (count * ROWS)) * ROWS)
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))


def in_slices(
    compute: Callable[[slice], torch.Tensor], like: torch.Tensor, dtype: torch.dtype, slice_tokens: int
) -> torch.Tensor:
    """Return what `compute` returns for all tokens, in a tensor shaped like `like` (batch, tokens, …)."""
    if not slice_tokens:
        return compute(slice(None)).to(dtype)
    output = torch.empty_like(like, dtype=dtype)
    for part in token_slices(like, slice_tokens):
        output[:, part] = compute(part)
    return output
