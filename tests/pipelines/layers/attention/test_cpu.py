"""Attention by matrix products equals torch's own, and is used only where it is faster."""

import pytest
import torch
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from pipelines.layers.attention import cpu as attention
from pipelines.layers.attention.cpu import MIN_KEYS, fast_attention, matmul_attention

CPU = torch.device("cpu")


def tensors(queries: int, keys: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, 3, length, 16, generator=generator).to(dtype) for length in (queries, keys, keys)]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, MIN_KEYS), (MIN_KEYS + 1, MIN_KEYS + 5)])
def test_matmul_attention_equals_torchs(queries: int, keys: int) -> None:
    exact = tensors(queries, keys, torch.float32)

    torch.testing.assert_close(matmul_attention(*exact), scaled_dot_product_attention(*exact), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "dtype", "options", "ours"),
    [
        (MIN_KEYS, torch.bfloat16, {}, True),
        (MIN_KEYS, torch.bfloat16, {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}, True),
        (MIN_KEYS - 1, torch.bfloat16, {}, False),
        (MIN_KEYS, torch.bfloat16, {"is_causal": True}, False),
        (MIN_KEYS, torch.bfloat16, {"scale": 0.5}, False),
        (MIN_KEYS, torch.bfloat16, {"attn_mask": torch.zeros(4, MIN_KEYS, dtype=torch.bfloat16)}, False),
    ],
)
def test_it_is_used_only_for_long_plain_attention(
    keys: int, dtype: torch.dtype, options: dict[str, object], ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def noting(*args: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return matmul_attention(*args)

    monkeypatch.setattr(attention, "matmul_attention", noting)
    query, key, value = tensors(4, keys, dtype)
    with fast_attention(CPU, torch.bfloat16):
        inside = functional.scaled_dot_product_attention(query=query, key=key, value=value, **options)
    outside = scaled_dot_product_attention(query, key, value, **options)

    assert bool(calls) is ours
    torch.testing.assert_close(inside.float(), outside.float(), rtol=0.05, atol=0.02)


def test_other_devices_and_dtypes_keep_torchs_attention() -> None:
    with fast_attention(CPU, torch.float32), fast_attention(torch.device("cuda:0"), torch.bfloat16):
        assert functional.scaled_dot_product_attention is scaled_dot_product_attention
