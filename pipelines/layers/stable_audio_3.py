"""What Stable Audio 3's published weights need beyond diffusers 0.42's classes.

Source: the reference implementation, github.com/Stability-AI/stable-audio-3 at commit 636f906, its `model.py`,
`models/autoencoders.py` and `models/transformer.py`. The noise that its autoencoder adds (`mask_noise`,
`noise_regularize`) is left out, as diffusers leaves it out.
"""

from collections.abc import Sequence
from functools import wraps
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderSAME, StableAudio3DiTModel, StableAudio3DurationEmbedder
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional
from torch.nn.utils import weight_norm

NORM_EPSILON = 1e-5
"""Of the norms before attention and feed-forward layers in the published transformers."""


class ChunkedResamplingBlock(nn.Module):
    """A resampling block whose attention stays inside of chunks, instead of a sliding window.

    It takes the place, and the modules, of one of diffusers' blocks. A chunk holds `chunk_size` of the longer side's
    frames. With `shifted`, the second half of the layers sees chunks that begin in the middle of the first half's; the
    sequence is continued at both ends by its own first and last half chunk.
    """

    def __init__(self, block: Any, chunk_size: int, shifted: bool, mapping_width: int) -> None:
        super().__init__()
        self.is_encoder = block.mode == "encoder"
        self.stride = block.stride
        self.chunk_size = chunk_size
        self.shifted = shifted
        self.mapping = block.mapping
        if mapping_width > 1 and not isinstance(block.mapping, nn.Identity):
            wide = nn.Conv1d(block.in_channels, block.out_channels, mapping_width, padding="same")
            self.mapping = weight_norm(wide)
        self.transformers = block.transformers
        self.new_tokens = block.new_tokens

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return frames `(batch, channels, length)` resampled: an encoder's are fewer by the stride, rounded up."""
        consumed, made = (self.stride, 1) if self.is_encoder else (1, self.stride)
        length = -(-frames.shape[-1] // consumed) * made
        frames = functional.pad(frames, (0, -frames.shape[-1] % (self.chunk_size * consumed // self.stride)))
        if self.is_encoder:
            frames = self.mapping(frames)
        segments = frames.transpose(1, 2).unflatten(1, (-1, consumed))
        tokens = self.new_tokens.expand(*segments.shape[:2], made, -1)
        sequence = torch.cat([segments, tokens], dim=2).flatten(1, 2)
        sequence = self._attend(sequence)
        made_frames = sequence.unflatten(1, (-1, self.stride + 1))[:, :, -made:].flatten(1, 2).transpose(1, 2)
        if not self.is_encoder:
            made_frames = self.mapping(made_frames)
        return made_frames[..., :length]

    def _attend(self, sequence: torch.Tensor) -> torch.Tensor:
        tokens = self.chunk_size // self.stride * (self.stride + 1)
        layers = list(self.transformers)
        if not self.shifted:
            return _in_chunks(sequence, layers, tokens)
        middle, shift = len(layers) // 2, tokens // 2
        sequence = _in_chunks(sequence, layers[:middle], tokens)
        continued = torch.cat([sequence[:, :shift], sequence, sequence[:, -shift:]], dim=1)
        return _in_chunks(continued, layers[middle:], tokens)[:, shift:-shift]


class ChunkedAutoencoderSAME(AutoencoderSAME):
    """The SAME autoencoder with what SAME-S has and diffusers 0.42's class lacks: chunked attention, wide mappings.

    `chunk_size` is in frames of the patched audio, a multiple of twice the strides with `shifted_chunks`; None keeps
    the sliding window. The mapping widths are kernel sizes of the convolutions between channels, in frames. All other
    arguments are those of the base class.
    """

    @register_to_config
    def __init__(
        self,
        audio_channels: int = 2,
        patch_size: int = 256,
        encoder_channels: int = 128,
        encoder_c_mults: Sequence[int] = (6,),
        encoder_strides: Sequence[int] = (16,),
        encoder_transformer_depths: Sequence[int] = (6,),
        latent_dim: int = 256,
        use_differential_attention: bool = True,
        dim_heads: int = 64,
        ff_mult: int = 3,
        sliding_window: int = 1,
        encoder_sinusoidal_blocks: Sequence[int] = (0,),
        decoder_sinusoidal_blocks: Sequence[int] = (0,),
        sampling_rate: int = 44100,
        chunk_size: int | None = None,
        shifted_chunks: bool = False,
        encoder_mapping_width: int = 1,
        decoder_mapping_width: int = 1,
    ) -> None:
        super().__init__(
            audio_channels=audio_channels,
            patch_size=patch_size,
            encoder_channels=encoder_channels,
            encoder_c_mults=encoder_c_mults,
            encoder_strides=encoder_strides,
            encoder_transformer_depths=encoder_transformer_depths,
            latent_dim=latent_dim,
            use_differential_attention=use_differential_attention,
            dim_heads=dim_heads,
            ff_mult=ff_mult,
            sliding_window=sliding_window,
            encoder_sinusoidal_blocks=encoder_sinusoidal_blocks,
            decoder_sinusoidal_blocks=decoder_sinusoidal_blocks,
            sampling_rate=sampling_rate,
        )
        if chunk_size is None:
            if (encoder_mapping_width, decoder_mapping_width) != (1, 1):
                raise ValueError("Wide mappings need a chunk_size.")
            return
        for stride in encoder_strides:
            if chunk_size % (stride * (2 if shifted_chunks else 1)):
                raise ValueError(f"chunk_size {chunk_size} holds no whole segments of the stride {stride}.")
        for side, width in ((self.encoder, encoder_mapping_width), (self.decoder, decoder_mapping_width)):
            side.blocks = nn.ModuleList(
                ChunkedResamplingBlock(block, chunk_size, shifted_chunks, width) for block in side.blocks
            )


class ReferenceTransformer(StableAudio3DiTModel):
    """The transformer as the reference runs it.

    A missing inpainting condition is one of zeros: the reference always passes one, which is more than nothing by the
    layers' biases; diffusers' text-to-audio pipeline passes none. The blocks' norms have the reference's epsilon, ten
    times diffusers'. Rotary frequencies stay float32: 16 bits of them turn far positions by wrong angles.
    """

    _keep_in_fp32_modules: ClassVar[list[str]] = ["rotary_pos_emb"]

    # diffusers reads the signature to know a configuration's keys
    @wraps(StableAudio3DiTModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for block in self.transformer_blocks:
            for norm in (block.pre_norm, block.cross_attend_norm, block.ff_norm):
                norm.eps = NORM_EPSILON

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        local_add_cond: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As in the base class, with latents `(batch, channels, length)` and times from 0 to 1."""
        if local_add_cond is None:
            batch, _, length = hidden_states.shape
            local_add_cond = hidden_states.new_zeros(batch, self.config.local_add_cond_dim, length)
        return super().forward(
            hidden_states,
            timestep,
            encoder_hidden_states,
            global_hidden_states,
            encoder_attention_mask,
            local_add_cond,
            return_dict,
        )


class ReferenceDurationEmbedder(StableAudio3DurationEmbedder):
    """The duration's embedding with its Fourier frequencies in float32: in bfloat16 half of it would be wrong."""

    _keep_in_fp32_modules: ClassVar[list[str]] = ["freqs"]


def _in_chunks(sequence: torch.Tensor, layers: Sequence[nn.Module], tokens: int) -> torch.Tensor:
    """Run layers on the chunks of a sequence `(batch, length, channels)`, whose length is a multiple of `tokens`."""
    shape = sequence.shape
    chunks = sequence.reshape(-1, tokens, shape[-1])
    for layer in layers:
        chunks = layer(chunks)
    return chunks.reshape(shape)
