"""A block of Wan's transformer whose residual stream may be in fp32, and whose tokens may be computed in slices.

The stream keeps the dtype in which it arrives. diffusers' own model has it in bf16 and rounds it three times in each
block; Wan's authors have it in fp32. Matrices and attention compute in bf16 in both.

In slices, norms, modulation, feed-forward and additions to the stream are computed for some tokens at a time, and the
stream is changed in place. The most memory is then used in attention: by the stream, queries, keys, values and the
output. Sliced blocks are not compiled: a compiler would fuse the slices again, and copy a stream that is changed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from pipelines.core.precision import FEED_FORWARD_SLICES
from pipelines.layers.wan.attention import Rotary, cross_attention, self_attention
from pipelines.layers.wan.slices import in_slices, token_slices


class WanBlock(WanTransformerBlock):
    """A `WanTransformerBlock` that computes `slice_tokens` tokens at a time, or all of them if it is 0."""

    slice_tokens: int = 0

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, temb: torch.Tensor, rotary_emb: Rotary
    ) -> torch.Tensor:
        """Return the residual stream `hidden_states` (batch, tokens, width) after this block, in its dtype.

        `encoder_hidden_states` (batch, text tokens, width) has the dtype of the matrices. `temb` is (batch, 6, width)
        or, with a timestep per token, (batch, tokens, 6, width). In slices the stream is changed in place.
        """
        stream, dtype = hidden_states, encoder_hidden_states.dtype
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (
            _Modulation(self.scale_shift_table, temb, index) for index in range(6)
        )

        take = partial(self._input, partial(_modulated, self.norm1, scale=scale, shift=shift), dtype)
        if self.slice_tokens:
            update = self_attention(self.attn1, partial(take, stream), rotary_emb, self.slice_tokens)
        else:
            update = self.attn1(take(stream), None, None, rotary_emb)
        stream = self._add(stream, update, gate)
        del update

        take = partial(self._input, partial(_normed, self.norm2), dtype)
        if self.slice_tokens:
            update = cross_attention(self.attn2, partial(take, stream), encoder_hidden_states, self.slice_tokens)
        else:
            update = self.attn2(take(stream), encoder_hidden_states, None, None)
        stream = self._add(stream, update, None)
        del update

        if not self.slice_tokens:
            normed = _modulated(self.norm3, stream, slice(None), ff_scale, ff_shift).to(dtype)
            return self._add(stream, self.ffn(normed), ff_gate)
        for part in token_slices(stream, FEED_FORWARD_SLICES * self.slice_tokens):
            normed = _modulated(self.norm3, stream, part, ff_scale, ff_shift).to(dtype)
            stream[:, part] = _sum(stream, self.ffn(normed), ff_gate, part)
        return stream

    def _input(
        self, normalise: Callable[[torch.Tensor, slice], torch.Tensor], dtype: torch.dtype, stream: torch.Tensor
    ) -> torch.Tensor:
        """Return the input of an attention."""
        return in_slices(partial(normalise, stream), stream, dtype, self.slice_tokens)

    def _add(self, stream: torch.Tensor, update: torch.Tensor, gate: "_Modulation | None") -> torch.Tensor:
        if not self.slice_tokens:
            return _sum(stream, update, gate, slice(None)).type_as(stream)
        for part in token_slices(stream, self.slice_tokens):
            stream[:, part] = _sum(stream, update[:, part], gate, part)
        return stream


class _Modulation:
    """One of the six values by which a block scales, shifts and gates its tokens."""

    def __init__(self, table: torch.Tensor, temb: torch.Tensor, index: int) -> None:
        self._table = table[:, index]
        self._temb = temb[..., index, :]

    def of(self, part: slice) -> torch.Tensor:
        """Return the value for some tokens, (batch, tokens or 1, width), in fp32."""
        if self._temb.ndim == 2:
            return (self._table + self._temb.float()).unsqueeze(1)
        return self._table + self._temb[:, part].float()


def _modulated(norm: Any, stream: torch.Tensor, part: slice, scale: _Modulation, shift: _Modulation) -> torch.Tensor:
    normed: torch.Tensor = norm(stream[:, part].float())
    return normed.mul_(1 + scale.of(part)).add_(shift.of(part))


def _normed(norm: Any, stream: torch.Tensor, part: slice) -> torch.Tensor:
    normed: torch.Tensor = norm(stream[:, part].float())
    return normed


def _sum(stream: torch.Tensor, update: torch.Tensor, gate: _Modulation | None, part: slice) -> torch.Tensor:
    """Return some tokens of the stream with their update."""
    if gate is None:
        return stream[:, part] + update
    return stream[:, part].float() + update * gate.of(part)
