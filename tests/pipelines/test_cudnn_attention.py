"""Attention over full tiles of keys is the same attention, however few of the last tile's keys are real."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines import cudnn_attention as module
from pipelines.backends import attending
from pipelines.cudnn_attention import TILE, cudnn_attention
from pipelines.spec import Attention

CARD = torch.device("cuda:0")


def tensors(tokens: int, sharpness: float = 1.0) -> list[torch.Tensor]:
    """A query, keys and values (1, 2, tokens, 32); all keys lie far off where the queries do not look."""
    generator = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(1, 2, tokens, 32, generator=generator) for _ in range(3))
    return [query + 1.0, sharpness * (key - 4.0), value + 2.0]


@pytest.mark.parametrize("tokens", [TILE * 3, TILE * 3 + 1, TILE * 4 - 1])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 20.0])
def test_it_is_attention_for_any_number_of_keys(tokens: int, sharpness: float) -> None:
    query, key, value = tensors(tokens, sharpness)

    torch.testing.assert_close(cudnn_attention(query, key, value), scaled_dot_product_attention(query, key, value))


def test_the_kernel_is_given_full_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    attend = module._attend

    def note(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given.append((query.shape[-2], key.shape[-2], value.shape[-2]))
        return attend(query, key, value)

    monkeypatch.setattr(module, "_attend", note)
    query, key, value = tensors(TILE + 5)

    assert cudnn_attention(query[:, :, :7], key, value).shape[-2] == 7
    assert given == [(7, 2 * TILE, 2 * TILE)]


def test_it_is_for_many_keys_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_KEYS", 200)
    monkeypatch.setattr(module, "cudnn_attention", lambda query, *_: query)
    query, key, value = tensors(200)

    with attending(Attention.CUDNN, CARD, torch.bfloat16):
        attend = torch.nn.functional.scaled_dot_product_attention
        few = attend(query, key[:, :, :199], value[:, :, :199])
        assert torch.equal(attend(query, key, value), query)

    assert torch.equal(few, scaled_dot_product_attention(query, key[:, :, :199], value[:, :, :199]))


def test_compiled_it_is_the_same() -> None:
    query, key, value = tensors(TILE + 30)

    compiled = torch.compile(cudnn_attention, fullgraph=True, dynamic=True)(query, key, value)

    torch.testing.assert_close(compiled, cudnn_attention(query, key, value))
