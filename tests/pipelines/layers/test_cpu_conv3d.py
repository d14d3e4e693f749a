import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pipelines.layers.cpu_conv3d import use_onednn


def operators(conv: nn.Module, inputs: torch.Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        conv(inputs)
    return {event.key for event in seen.key_averages()}


@pytest.mark.parametrize(
    "how", [{}, {"stride": (2, 1, 1)}, {"padding": 1}, {"groups": 2}, {"dilation": 2}, {"bias": False}]
)
def test_onednn_equals_torch(how: dict) -> None:
    torch.manual_seed(0)
    conv, inputs = nn.Conv3d(4, 8, 3, **how), torch.randn(1, 4, 6, 9, 11)
    with torch.no_grad():
        expected = conv(inputs)
        use_onednn(conv)
        torch.testing.assert_close(conv(inputs), expected)
        assert "aten::mkldnn_convolution" in operators(conv, inputs)


def test_inputs_may_have_any_memory_layout() -> None:
    torch.manual_seed(0)
    conv, inputs = nn.Conv3d(4, 8, 3), torch.randn(11, 9, 6, 4).permute(3, 2, 1, 0)[None]
    with torch.no_grad():
        expected = conv(inputs)
        use_onednn(conv)
        torch.testing.assert_close(conv(inputs), expected)


def test_other_padding_modes_stay_torchs() -> None:
    torch.manual_seed(0)
    conv, inputs = nn.Conv3d(4, 8, 3, padding=1, padding_mode="replicate"), torch.randn(1, 4, 3, 5, 7)
    with torch.no_grad():
        expected = conv(inputs)
        use_onednn(conv)
        assert torch.equal(conv(inputs), expected)


def test_torch_itself_does_not_use_onednn() -> None:
    """Otherwise use_onednn is no longer needed."""
    conv, inputs = nn.Conv3d(24, 24, 3), torch.randn(1, 24, 6, 122, 40)
    with torch.no_grad():
        assert "aten::slow_conv3d" in operators(conv, inputs)
