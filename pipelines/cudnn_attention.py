"""cuDNN's exact attention over full tiles of keys: torch's own function gives it the keys as they are."""

import torch

from pipelines.padding import followed, missing, regained

TILE = 128
"""Keys in a tile of its kernel for bf16."""

LEAST_KEYS = 4096
"""Attention to fewer keys is torch's: it takes too little time for any to be gained."""

_FROM_TORCH = torch.ops.aten


def cudnn_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of (batch, heads, queries, dim) to (batch, heads, keys, dim), in their dtype, bf16 on a card."""
    times = missing(key.shape[-2], TILE)
    if times == 0:
        return _attend(query, key, value)[0]
    mean = key.mean(-2, keepdim=True)
    output, log_sum = _attend(query, followed(key, mean, times), followed(value, torch.zeros_like(mean), times))
    scores = (query * mean).sum(-1, keepdim=True, dtype=torch.float32) * query.shape[-1] ** -0.5
    return output * regained(scores, log_sum, times).to(output.dtype)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs, and the logarithms of the sums of exp of all scores (batch, heads, queries, 1) in fp32."""
    if query.device.type == "cpu":
        # without the card, the same by torch's kernel there: what is around it can be tried anywhere
        output, log_sum = _FROM_TORCH._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    else:
        output, log_sum, *_ = _FROM_TORCH._scaled_dot_product_cudnn_attention(query, key, value, None, True)
    return output, log_sum.reshape(*query.shape[:-1], 1)
