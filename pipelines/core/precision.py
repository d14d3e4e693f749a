"""In which numbers the weights of the transformer's blocks are kept and computed with, and which of them are allowed.

`Precision` is what a plan comes to; `PrecisionSetting` is what an owner asks for. No torch.
"""

from enum import StrEnum

FP8_MATMUL_CAPABILITY = (8, 9)
"""The first chips with tensor cores for fp8: Ada and Hopper."""

INT8_MATMUL_CAPABILITY = (7, 5)
"""The first chips with tensor cores for int8: Turing."""

CHUNK_TOKENS = 4096
"""How many tokens are rounded and multiplied at a time: enough to keep a large card busy, few enough to be small."""


class Precision(StrEnum):
    """How the weights of the transformer's blocks are kept, the most exact first.

    They are computed with in bf16 except for the two that are named for it: these round what the blocks' matrices are
    multiplied with as well (`pipelines.layers.quantized_linear`).
    GGUF is for files that are quantized already, and only for these.

    The order is that of the PSNR against bf16's video, of three videos of the demo's weights (128x128, 17 frames, 12
    steps): int8 matmuls 39.5 … 42.2 dB, fp8 matmuls 29.6 … 37.3, fp8 29.9 … 35.5, 4-bit 24.9 … 28.2. A number in fp8
    has three bits beside its exponent; one in int8 has seven, of a scale that its row or its token has to itself.
    """

    BF16 = "bf16"
    INT8_MATMUL = "int8 matmuls"
    FP8_MATMUL = "fp8 matmuls"
    FP8 = "fp8"
    Q4 = "4-bit"
    GGUF = "GGUF"

    @property
    def itemsize(self) -> float:
        """Bytes of one number. Four bits come in blocks of 32 that share a scale of 16 bits (GGUF's Q4_0).

        What a GGUF file takes is counted in the file.
        """
        if self is Precision.Q4:
            return 18 / 32
        return 2.0 if self is Precision.BF16 else 1.0

    @property
    def multiplies(self) -> bool:
        """Whether the blocks' matrices are multiplied in it, not in bf16."""
        return self in (Precision.FP8_MATMUL, Precision.INT8_MATMUL)

    @property
    def exactness(self) -> int:
        """0 for the weights as published, more for what is farther from them."""
        return list(Precision).index(self)


class PrecisionSetting(StrEnum):
    """What an owner wants of the weights.

    `AUTO` rounds nothing as long as that costs no time: only where bf16 does not fit, or where it has to be waited for.
    The others are kept to wherever they lead: `BF16` to the same video on every card, `FP8` and `INT8` to the fastest.
    """

    AUTO = "auto"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    Q4 = "4-bit"

    def allowed(self, capability: tuple[int, int]) -> tuple[Precision, ...]:
        """What a plan may choose from on a chip of that compute capability.

        A chip without fp8 multiplies what is kept in it in bf16.
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
