"""Wan's transformer with the accuracy of its authors' code, and with less memory for activations.

Of the authors' arithmetic, diffusers has the norms and the sums of the modulation in fp32. With high accuracy these are
in fp32, too, as in the authors' `model.py`, where `autocast` sets the dtype of each part:

- the residual stream, from the first block to the last norm;
- the embedding of the time and its projection to the modulation of the blocks;
- the output layer, and with it the velocity that guidance and the sampler continue with.

All other matrices and attention compute in the dtype of the weights. In fp32 this gives the same bytes as diffusers.
"""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch.nn import functional

from pipelines.core.precision import Accuracy
from pipelines.layers.wan.block import WanBlock
from pipelines.layers.wan.slices import token_slices

PARTS = 6
"""A matrix is converted to fp32 in so many parts: that of the time, the largest, has one for each value it gives."""


class WanTransformer(WanTransformer3DModel):
    """A `WanTransformer3DModel` for inference, made by `use_activations`."""

    _repeated_blocks = ("WanBlock",)
    accuracy: Accuracy = Accuracy.STANDARD
    slice_tokens: int = 0

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do as `WanTransformer3DModel.forward` does. With high accuracy the output is in fp32.

        `hidden_states` is (batch, channels, frames, height, width), `timestep` (batch,) or (batch, tokens).
        `attention_kwargs` has nothing that this model reads.
        """
        size = hidden_states.shape[2:]
        rotary = self.rope(hidden_states)
        stream = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
        if self.accuracy is Accuracy.HIGH:
            stream = stream.float()
            temb, modulation = self._embed_time(timestep, encoder_hidden_states.dtype)
            conditions = self.condition_embedder.text_embedder(encoder_hidden_states)
            image = encoder_hidden_states_image
            image = None if image is None else self.condition_embedder.image_embedder(image)
        else:
            tokens = timestep.shape[1] if timestep.ndim == 2 else None
            temb, modulation, conditions, image = self.condition_embedder(
                timestep.flatten(), encoder_hidden_states, encoder_hidden_states_image, timestep_seq_len=tokens
            )
        modulation = modulation.unflatten(-1, (6, -1))
        if image is not None:
            conditions = torch.concat([image, conditions], dim=1)
        for block in self.blocks:
            stream = block(stream, conditions, modulation, rotary)
        del modulation, rotary, conditions
        sample = self._unpatchify(self._output(stream, temb, encoder_hidden_states.dtype), size)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _embed_time(self, timestep: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embedding of timesteps (…, width) and its projection (…, 6 * width), in fp32."""
        embedder = self.condition_embedder
        frequencies = embedder.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        weight = next(embedder.time_embedder.parameters())
        temb = embedder.time_embedder(frequencies.to(weight.dtype)).float()
        return temb, _project_in_fp32(embedder.time_proj, embedder.act_fn(temb), dtype)

    def _output(self, stream: torch.Tensor, temb: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the output layer's values (batch, tokens, channels of a patch)."""
        shape = (*stream.shape[:2], self.proj_out.out_features)
        # with a timestep per token, (batch, tokens, width)
        shift, scale = self.scale_shift_table[0].unbind()
        output = torch.empty(shape, dtype=stream.dtype, device=stream.device)
        for part in token_slices(stream, self.slice_tokens):
            of = temb[:, part] if temb.ndim == 3 else temb.unsqueeze(1)
            normed = self.norm_out(stream[:, part].float()).mul_(1 + (scale + of)).add_(shift + of).type_as(stream)
            exact = self.accuracy is Accuracy.HIGH
            output[:, part] = _project_in_fp32(self.proj_out, normed, dtype) if exact else self.proj_out(normed)
        return output

    def _unpatchify(self, values: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """Return a video (batch, channels, frames, height, width) of the patches of its tokens."""
        patch = self.config.patch_size
        grid = [length // side for length, side in zip(size, patch, strict=True)]
        split = values.unflatten(2, (*patch, -1)).unflatten(1, grid)
        return split.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def use_activations(model: Any, accuracy: Accuracy, slice_tokens: int = 0) -> None:
    """Let a `WanTransformer3DModel` compute with an accuracy, and `slice_tokens` tokens at a time; 0: all of them.

    With standard accuracy and without slices the model stays as diffusers made it.
    """
    if accuracy is Accuracy.STANDARD and not slice_tokens:
        return
    model.__class__ = WanTransformer
    model.accuracy, model.slice_tokens = accuracy, slice_tokens
    for block in model.blocks:
        block.__class__ = WanBlock
        block.slice_tokens = slice_tokens


def _project_in_fp32(linear: Any, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Multiply fp32 values by a linear layer's weights in fp32; a quantized layer computes in `dtype`."""
    if type(linear) is not torch.nn.Linear:
        quantized: torch.Tensor = linear(values.to(dtype))
        return quantized.float()
    if linear.weight.dtype is torch.float32:
        exact: torch.Tensor = linear(values)
        return exact
    output = values.new_empty(*values.shape[:-1], linear.out_features)
    rows = max(1, linear.out_features // PARTS)
    for start in range(0, linear.out_features, rows):
        part = slice(start, start + rows)
        bias = None if linear.bias is None else linear.bias[part].float()
        output[..., part] = functional.linear(values, linear.weight[part].float(), bias)
    return output
