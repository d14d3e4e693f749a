"""Sizes of a model's components, from the numbers in their configurations. No torch.

The formulas for activations of the text encoder and the VAE count the tensors that are alive at the peak; tests compare
them with a trace of the real modules at their real sizes. Those of the transformer are in
`pipelines.planning.activations`.
"""

from dataclasses import dataclass, replace
from math import prod

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.geometry import Geometry, Grid

# bytes per number
BF16 = 2
FP32 = 4


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Bytes of one transformer in the format it is stored in, counted tensor by tensor.

    `blocks` has the size of each block, `others` of all tensors outside of them. `converted` is the part of the blocks
    that is converted while loading, and so cannot stay memory-mapped. `dequantized` is the largest matrix in bf16.
    """

    blocks: tuple[int, ...]
    others: int
    converted: int
    dequantized: int


@dataclass(frozen=True, slots=True)
class TransformerShape:
    """A `WanTransformer3DModel`; the fields are those of its configuration.

    With `image_dim` it attends to the image encoder's tokens, with `pos_embed_seq_len` to those of two images.
    """

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    text_dim: int
    in_channels: int
    out_channels: int
    patch_size: tuple[int, int, int]
    freq_dim: int = 256
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    pos_embed_seq_len: int | None = None

    @property
    def width(self) -> int:
        """Channels per token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: two attentions with their norms, the norm between them, the MLP, the modulation.

        Attention to an image has keys, values and a norm of its own.
        """
        attention = 4 * _linear(self.width, self.width) + 2 * self.width
        mlp = _linear(self.width, self.ffn_dim) + _linear(self.ffn_dim, self.width)
        image = 2 * _linear(self.added_kv_proj_dim, self.width) + self.width if self.added_kv_proj_dim else 0
        return 2 * attention + mlp + (2 + 6) * self.width + image

    @property
    def block_matrix_parameters(self) -> int:
        """Those of them in matrices, of two attentions and the MLP: without biases and norms."""
        image = 2 * (self.added_kv_proj_dim or 0) * self.width
        return 8 * self.width**2 + 2 * self.width * self.ffn_dim + image

    @property
    def other_parameters(self) -> int:
        """Parameters outside the blocks: the embeddings of patches, time, text and image, and the output layer."""
        pixels = prod(self.patch_size)
        time = (
            _linear(self.freq_dim, self.width) + _linear(self.width, self.width) + _linear(self.width, 6 * self.width)
        )
        text = _linear(self.text_dim, self.width) + _linear(self.width, self.width)
        ends = _linear(self.in_channels * pixels, self.width) + _linear(self.width, self.out_channels * pixels)
        return ends + time + text + self._image_embedding_parameters + 2 * self.width

    @property
    def _image_embedding_parameters(self) -> int:
        """Parameters of two norms, two linear layers, and the embedding of positions that two images need."""
        if not self.image_dim:
            return 0
        layers = _linear(self.image_dim, self.image_dim) + _linear(self.image_dim, self.width)
        return 2 * (self.image_dim + self.width) + layers + (self.pos_embed_seq_len or 0) * self.image_dim

    @property
    def in_bf16(self) -> StoredBytes:
        """Its bytes in bf16."""
        return StoredBytes(
            blocks=(self.block_parameters * BF16,) * self.num_layers,
            others=self.other_parameters * BF16,
            converted=0,
            dequantized=0,
        )

    @property
    def block_matrix_rows(self) -> int:
        """Rows of those matrices: their output values per token."""
        return (11 if self.added_kv_proj_dim else 9) * self.width + self.ffn_dim

    def linear_flops(self, tokens: int) -> int:
        """Floating-point operations of one forward pass in the blocks' matrices, without the few for the text."""
        return self.num_layers * 2 * tokens * (6 * self.width**2 + 2 * self.width * self.ffn_dim)

    def linear_values(self, tokens: int) -> int:
        """Input values of those matrices in one pass; there are as many output values."""
        return self.num_layers * tokens * (7 * self.width + self.ffn_dim)

    def forward_flops(self, tokens: int, text_tokens: int = 512) -> int:
        """Floating-point operations of one forward pass: half of them in attention at 480p, three quarters at 720p."""
        attention = 4 * tokens * (tokens + text_tokens) * self.width
        return self.linear_flops(tokens) + self.num_layers * attention


@dataclass(frozen=True, slots=True)
class TextEncoderShape:
    """A `UMT5EncoderModel`; the fields are those of its configuration."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: attention with its position bias, the gated MLP, two norms."""
        attention = 4 * self.d_model * self.num_heads * self.d_kv
        bias = self.relative_attention_num_buckets * self.num_heads
        return attention + bias + 3 * self.d_model * self.d_ff + 2 * self.d_model

    @property
    def other_parameters(self) -> int:
        """Parameters outside the blocks: the embedding and the last norm."""
        return self.vocab_size * self.d_model + self.d_model

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.num_layers * self.block_parameters + self.other_parameters

    def activation_bytes(self, text_tokens: int = 512) -> int:
        """Peak bytes of bf16 inference on one prompt: the attention logits of all heads in three copies."""
        return 3 * BF16 * self.num_heads * text_tokens**2 + 6 * BF16 * self.d_model * text_tokens


@dataclass(frozen=True, slots=True)
class ImageEncoderShape:
    """A `CLIPVisionModel`; the fields are those of its configuration."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    image_size: int
    patch_size: int
    num_channels: int = 3

    @property
    def tokens(self) -> int:
        """Tokens of an image: one for each patch, and one for the whole."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def parameters(self) -> int:
        """All parameters."""
        width, mlp = self.hidden_size, self.intermediate_size
        block = 4 * _linear(width, width) + _linear(width, mlp) + _linear(mlp, width) + 4 * width
        return self.num_hidden_layers * block + self.other_parameters

    @property
    def other_parameters(self) -> int:
        """Parameters outside the blocks: the embeddings of patches and positions, that of the whole, and two norms."""
        patches = self.num_channels * self.patch_size**2 + self.tokens
        return (patches + 1 + 4) * self.hidden_size

    def activation_bytes(self, images: int) -> int:
        """Peak bytes of bf16 inference: the hidden states of all blocks, and what the last block computes with."""
        states = (self.num_hidden_layers + 6) * self.hidden_size + 2 * self.intermediate_size
        return images * self.tokens * states * BF16


@dataclass(frozen=True, slots=True)
class VaeShape:
    """An `AutoencoderKLWan`: its parameters, the channels of its last stage, its spatial and temporal scale.

    `encoder_base_dim` are the channels of the encoder's first stage.
    """

    parameters: int
    base_dim: int
    scale_factor_spatial: int
    scale_factor_temporal: int
    patch_size: int = 1
    is_residual: bool = False
    encoder_base_dim: int = 96

    def decode_bytes(self, width: int, height: int, itemsize: int) -> int:
        """Peak bytes of decoding one group of frames of that size in pixels, including the feature cache.

        Counts the last stage, in tensors of four frames with `base_dim` channels: those that a residual block keeps
        alive, and in Wan2.2's layout also the shortcut around the stage. The rest is the finished group of frames
        while it is converted to bytes.
        """
        tensors = 19.5 if self.is_residual else 12.2
        return round(width * height * (tensors * 4 * self.base_dim * itemsize / self.patch_size**2 + 800))

    def encode_bytes(self, width: int, height: int, frames: int, itemsize: int) -> int:
        """Peak bytes of encoding a group of frames of that size in pixels, including the feature cache.

        Counts the first stage, in tensors of a group with `encoder_base_dim` channels: those that a residual block
        keeps alive, and their copies with a margin for the convolution.
        """
        tensors = 12.0 if self.is_residual else 9.8
        return round(width * height * tensors * frames * self.encoder_base_dim * itemsize / self.patch_size**2)


@dataclass(frozen=True, slots=True)
class FileShape:
    """A file that holds a transformer's weights: its name, and the formats of its tensors, as "Q4_K" or "float16".

    `quantized` is set only if its matrices are quantized; other weights can be stored in any precision.
    """

    name: str
    formats: tuple[str, ...]
    quantized: StoredBytes | None = None


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The components of a pipeline that have weights.

    Wan2.2 A14B has two transformers of the same shape, its `experts`: one for the noisier steps and one for the others.
    Wan2.2 5B has a timestep per token (`expand_timesteps`). `files` are single files with transformers' weights.
    `guidance` says whether a step has two passes. The pipeline accepts sides in multiples of `side_multiple` pixels.
    The VAE encodes the images of a request in groups of `encoded_frames`, and the video that another is made from in
    groups of `video_frames`; 0 if requests have none. The model that makes sounds has `sound_parameters`.
    """

    transformer: TransformerShape
    text_encoder: TextEncoderShape
    vae: VaeShape
    image_encoder: ImageEncoderShape | None = None
    encoded_frames: int = 0
    video_frames: int = 0
    experts: int = 1
    expand_timesteps: bool = False
    files: tuple[FileShape, ...] = ()
    guidance: bool = True
    side_multiple: int = 1
    sound_parameters: int = 0

    @property
    def encoder_parameters(self) -> int:
        """Parameters of the encoders, of text and image, which are placed alike."""
        return self.text_encoder.parameters + (self.image_encoder.parameters if self.image_encoder else 0)

    @property
    def quantized(self) -> tuple[StoredBytes, ...]:
        """The bytes of each transformer if one is quantized (an unquantized other is in bf16); else empty."""
        quantized = tuple(file.quantized for file in self.files if file.quantized is not None)
        return quantized + (self.transformer.in_bf16,) * (self.experts - len(quantized)) if quantized else ()

    def with_files(self, files: tuple[FileShape, ...]) -> "ModelShape":
        """A copy with transformers' weights from files. Raises UnsupportedModelError for another number of blocks."""
        for file in files:
            blocks = None if file.quantized is None else len(file.quantized.blocks)
            if blocks not in (None, self.transformer.num_layers):
                raise UnsupportedModelError(
                    f"{file.name} has {blocks} blocks, but the model has {self.transformer.num_layers}."
                )
        return replace(self, files=files)

    @property
    def grid(self) -> Grid:
        """The sizes and lengths that the pipeline can make."""
        _, rows, columns = self.transformer.patch_size
        vae = self.vae
        return Grid.of(vae.scale_factor_spatial, (rows, columns), vae.scale_factor_temporal, self.side_multiple)

    def tokens(self, geometry: Geometry) -> int:
        """The number of tokens of a video."""
        frames = (geometry.full_num_frames - 1) // self.vae.scale_factor_temporal + 1
        _, rows, columns = self.transformer.patch_size
        side = self.vae.scale_factor_spatial
        return frames * (geometry.full_height // (side * rows)) * (geometry.full_width // (side * columns))


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
