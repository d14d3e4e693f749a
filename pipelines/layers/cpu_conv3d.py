"""3D convolutions on a CPU, computed by oneDNN.

In fp32, torch uses oneDNN for a convolution only if a slice of its input has more than 20,480 values (`use_mkldnn` in
ATen's Convolution.cpp). It computes the others by copying every window into a matrix, which takes 2 to 4 times as long
in a VAE: `python -m benchmarks.cpu.decoding`. In bf16 torch always uses oneDNN.
"""

import torch
from torch import nn


def use_onednn(module: nn.Module) -> None:
    """Let oneDNN compute every `Conv3d` in `module`, if torch includes it. Only for fp32 on a CPU."""
    if not torch.backends.mkldnn.is_available():
        return
    for part in module.modules():
        if isinstance(part, nn.Conv3d) and part.padding_mode == "zeros":
            part._conv_forward = _OneDnnConvolution(part)


class _OneDnnConvolution:
    """Replaces `nn.Conv3d._conv_forward`."""

    def __init__(self, conv: nn.Conv3d) -> None:
        self._options = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def __call__(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.mkldnn_convolution(inputs.contiguous(), weight, bias, *self._options)
