"""Computes a tensor for some of a video's tokens at a time."""

from collections.abc import Callable, Iterator

import torch

from pipelines.planning.activations import slice_size


def token_slices(values: torch.Tensor, slice_tokens: int) -> Iterator[slice]:
    """Yield slices of the tokens of `values` (batch, tokens, …): up to `slice_tokens` of the whole batch, 0 for all."""
    batch, tokens = values.shape[:2]
    size = slice_size(tokens, max(1, slice_tokens // batch)) if slice_tokens else tokens
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


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
