"""Wan's attention with less memory: norms and rotary embedding are computed for some tokens at a time, in place.

The values are those of `WanAttnProcessor`. Here a query, a key and a value are all that is alive beside the output, and
the caller's input is not: each function takes it by a callable, because a caller's own reference would keep it alive
while attention runs.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from pipelines.layers.wan.slices import token_slices

TEXT_TOKENS = 512
"""The tokens of the text, which follow those of an image. Fixed in `WanAttnProcessor`."""

Rotary = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines (1, tokens, 1, head dim) of the rotary embedding, in fp32."""


def self_attention(
    attention: Any, take_input: Callable[[], torch.Tensor], rotary: Rotary, slice_tokens: int
) -> torch.Tensor:
    """Attend from all tokens to all. The input and the output are (batch, tokens, width)."""
    values = take_input()
    query = _normalise(attention.to_q(values), attention.norm_q, attention.heads, rotary, slice_tokens)
    key = _normalise(attention.to_k(values), attention.norm_k, attention.heads, rotary, slice_tokens)
    value = attention.to_v(values).unflatten(2, (attention.heads, -1))
    del values
    output = _attend(attention, query, key, value)
    del query, key, value
    return _project(attention, output)


def cross_attention(
    attention: Any, take_input: Callable[[], torch.Tensor], conditions: torch.Tensor, slice_tokens: int
) -> torch.Tensor:
    """Attend from all tokens to the text, `conditions` (batch, text tokens, width); an image's tokens may precede it.

    The input and the output are (batch, tokens, width).
    """
    heads = attention.heads
    query = _normalise(attention.to_q(take_input()), attention.norm_q, heads, None, slice_tokens)
    image_output = None
    if attention.add_k_proj is not None:
        image_tokens = conditions.shape[1] - TEXT_TOKENS
        image, conditions = conditions[:, :image_tokens], conditions[:, image_tokens:]
        key = attention.norm_added_k(attention.add_k_proj(image)).unflatten(2, (heads, -1))
        image_output = _attend(attention, query, key, attention.add_v_proj(image).unflatten(2, (heads, -1)))
    key = attention.norm_k(attention.to_k(conditions)).unflatten(2, (heads, -1))
    output = _attend(attention, query, key, attention.to_v(conditions).unflatten(2, (heads, -1)))
    del query
    return _project(attention, output if image_output is None else output.add_(image_output))


def _normalise(values: torch.Tensor, norm: Any, heads: int, rotary: Rotary | None, slice_tokens: int) -> torch.Tensor:
    """Normalise queries or keys (batch, tokens, width) in place and rotate them; return them split into heads."""
    split = values.unflatten(2, (heads, -1))
    for part in token_slices(values, slice_tokens):
        normed = norm(values[:, part]).unflatten(2, (heads, -1))
        if rotary is None:
            split[:, part] = normed
        else:
            even, odd = normed.unflatten(-1, (-1, 2)).unbind(-1)
            cosines, sines = rotary[0][:, part, :, 0::2], rotary[1][:, part, :, 1::2]
            split[:, part, :, 0::2] = even * cosines - odd * sines
            split[:, part, :, 1::2] = even * sines + odd * cosines
    return split


def _attend(attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    processor = attention.processor
    parallel = None if attention.is_cross_attention else processor._parallel_config
    output: torch.Tensor = dispatch_attention_fn(
        query, key, value, backend=processor._attention_backend, parallel_config=parallel
    )
    return output.flatten(2, 3).type_as(query)


def _project(attention: Any, values: torch.Tensor) -> torch.Tensor:
    projection, dropout = attention.to_out
    projected: torch.Tensor = dropout(projection(values))
    return projected
