"""Convolutions in time and space on a processor, by oneDNN.

torch gives a convolution in fp32 to oneDNN only where a slice of its input has over 20,480 numbers (`use_mkldnn` in
ATen's Convolution.cpp), and takes the others by copying every window into a matrix, which is 2 to 4 times slower on a
VAE's: `python -m benchmarks.cpu.decoding`. In bf16 torch asks oneDNN by itself.
"""

import torch
from torch import nn


def use_onednn(module: nn.Module) -> None:
    """Have every `Conv3d` in `module` computed by oneDNN, where torch has it. For fp32 on a processor only."""
    if not torch.backends.mkldnn.is_available():
        return
    for part in module.modules():
        if isinstance(part, nn.Conv3d) and part.padding_mode == "zeros":
            part._conv_forward = _Convolve(part)


class _Convolve:
    """What `nn.Conv3d` asks for its result."""

    def __init__(self, conv: nn.Conv3d) -> None:
        self._how = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def __call__(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.mkldnn_convolution(inputs.contiguous(), weight, bias, *self._how)
