"""Number formats of the transformer blocks' weights, and which of them a plan may choose.

`PrecisionSetting` is what a user configures, `Precision` what a plan chooses. No torch.
"""

from enum import StrEnum

FP8_MATMUL_CAPABILITY = (8, 9)
"""The first GPUs with fp8 tensor cores: Ada and Hopper."""

INT8_MATMUL_CAPABILITY = (7, 5)
"""The first GPUs with int8 tensor cores: Turing."""

CHUNK_TOKENS = 4096
"""Tokens that are quantized and multiplied at a time: enough to keep a large GPU busy, but little memory."""

SLICE_TOKENS = 4096
"""Tokens whose norms and modulation are computed at a time, where a plan needs it: few for memory, many for a GPU."""

FEED_FORWARD_SLICES = 4
"""The feed-forward takes this many slices at once, because quantized matrices are converted to bf16 at each call."""


class Precision(StrEnum):
    """The format in which the weights of the transformer's blocks are stored, the most exact first.

    Weights are converted to bf16 for each product, except by the two "matmuls": these also quantize the activations
    and multiply in their own format (`pipelines.layers.quantized_linear`).
    GGUF stands for files that are already quantized; it is used for them only.

    The order is that of the PSNR against the video in bf16, for three videos of the demo weights (128x128, 17 frames,
    12 steps): int8 matmuls 39.5 … 42.2 dB, fp8 matmuls 29.6 … 37.3, fp8 29.9 … 35.5, 4-bit 24.9 … 28.2. An fp8 number
    has three bits of mantissa; an int8 number has seven bits and a scale per row or token.
    """

    BF16 = "bf16"
    INT8_MATMUL = "int8 matmuls"
    FP8_MATMUL = "fp8 matmuls"
    FP8 = "fp8"
    Q4 = "4-bit"
    GGUF = "GGUF"

    @property
    def itemsize(self) -> float:
        """Bytes of one number. In 4-bit, blocks of 32 numbers share a scale of 16 bits (GGUF's Q4_0).

        The size of a GGUF file is read from the file instead.
        """
        if self is Precision.Q4:
            return 18 / 32
        return 2.0 if self is Precision.BF16 else 1.0

    @property
    def multiplies(self) -> bool:
        """Whether the blocks' matrices are multiplied in this format instead of bf16."""
        return self in (Precision.FP8_MATMUL, Precision.INT8_MATMUL)

    @property
    def exactness(self) -> int:
        """Rank of the error: 0 for the published weights, higher for less exact formats."""
        return list(Precision).index(self)


class PrecisionSetting(StrEnum):
    """The configured precision of the weights.

    `AUTO` quantizes weights only if bf16 does not fit or makes a step slower. The others are always obeyed: `BF16`
    gives the same video on every GPU, `FP8` and `INT8` are the fastest.
    """

    AUTO = "auto"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    Q4 = "4-bit"

    @classmethod
    def _missing_(cls, value: object) -> "PrecisionSetting | None":
        return cls.Q4 if value in ("int4", "q4", "4bit") else None

    def allowed(self, capability: tuple[int, int]) -> tuple[Precision, ...]:
        """The precisions that a plan may choose on a GPU of that compute capability.

        A GPU without fp8 tensor cores stores weights in fp8 and multiplies in bf16.
        """
        fp8 = Precision.FP8_MATMUL if capability >= FP8_MATMUL_CAPABILITY else Precision.FP8
        match self:
            case PrecisionSetting.BF16:
                return (Precision.BF16,)
            case PrecisionSetting.FP8:
                return (fp8,)
            case PrecisionSetting.INT8:
                return (Precision.INT8_MATMUL,)
            case PrecisionSetting.Q4:
                return (Precision.Q4,)
        has_int8_only = INT8_MATMUL_CAPABILITY <= capability < FP8_MATMUL_CAPABILITY
        return (Precision.BF16, fp8, *((Precision.INT8_MATMUL,) if has_int8_only else ()), Precision.Q4)


class Accuracy(StrEnum):
    """How exactly the transformer computes with its weights, and whether the VAE decodes in fp32.

    HIGH has the residual stream and the modulation in fp32, as Wan's authors do (`pipelines.layers.wan`). STANDARD has
    them in the dtype of the weights, as diffusers does. As a setting, HIGH stands for the most exact that fits.
    """

    HIGH = "high"
    STANDARD = "standard"
