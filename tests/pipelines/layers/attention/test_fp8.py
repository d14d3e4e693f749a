"""Attention in fp8 equals attention except for rounding, also compiled, and is refused without cuDNN's kernel."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines.core.errors import AttentionUnavailableError
from pipelines.core.model import Attention, ModelSpec
from pipelines.layers.attention import fp8 as module
from pipelines.layers.attention.backends import AttentionShape, attention_context, choose
from pipelines.layers.attention.fp8 import DTYPE, MIN_KEYS, TILE, fp8_attention
from pipelines.runner.runner import Runner

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
OVER = AttentionShape(tokens=4096, heads=12, head_dim=64)


def tensors(tokens: int = 1500, apart: float = 0.0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """A query, keys and values (1, 3, tokens, 64); keys and values have a common offset."""
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, 3, tokens, 64, generator=generator) for _ in range(3))
    common = (torch.randn(1, 3, 1, 64, generator=generator) * apart for _ in range(2))
    return [part.to(dtype) for part in (2 * query, 2 * key + next(common), value + next(common))]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_attention_except_for_rounding(dtype: torch.dtype) -> None:
    query, key, value = tensors(dtype=dtype)

    made = fp8_attention(query, key, value)

    assert (made.dtype, made.shape) == (dtype, query.shape)
    assert 0.005 < apart(made, scaled_dot_product_attention(query, key, value)) < 0.12
    # with different numbers of keys and queries
    assert apart(fp8_attention(query[:, :, :7], key, value), made[:, :, :7]) < 0.12


def test_a_common_offset_of_keys_and_values_costs_no_accuracy() -> None:
    usual = tensors()
    much = tensors(apart=30.0)
    mean = much[2].mean(-2, keepdim=True)

    error = (fp8_attention(*usual) - scaled_dot_product_attention(*usual)).norm()
    error_of_much = (fp8_attention(*much) - scaled_dot_product_attention(*much)).norm()

    assert error_of_much < 1.5 * error
    # equal values leave nothing to round
    torch.testing.assert_close(fp8_attention(much[0], much[1], mean.expand_as(much[2])), mean.expand_as(much[2]))


def test_padding_the_last_tile_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # the keys do not fill a tile: a seventh of the padded keys is padding
    query, key, value = tensors(TILE * 2 + 170, apart=3.0)
    full = fp8_attention(query, key, value)

    monkeypatch.setattr(module, "TILE", 1)

    assert apart(full, fp8_attention(query, key, value)) < 0.02


def test_zeros_give_zeros() -> None:
    nothing = torch.zeros(1, 1, 8, 16)

    assert torch.equal(fp8_attention(nothing, nothing, nothing), nothing)


def test_attention_over_a_prompt_and_outside_the_context_stays_exact() -> None:
    query, key, value = tensors()
    few = key[:, :, : MIN_KEYS - 1], value[:, :, : MIN_KEYS - 1]
    exact, exact_few = scaled_dot_product_attention(query, key, value), scaled_dot_product_attention(query, *few)

    with attention_context(Attention.FP8, CPU, torch.float32):
        assert torch.equal(torch.nn.functional.scaled_dot_product_attention(query, *few), exact_few)
        rounded = torch.nn.functional.scaled_dot_product_attention(query, key, value)

    assert not torch.equal(rounded, exact)
    assert torch.equal(torch.nn.functional.scaled_dot_product_attention(query, key, value), exact)


def test_compiled_attention_is_equal() -> None:
    query, key, value = tensors(1100)

    compiled = torch.compile(fp8_attention, fullgraph=True, dynamic=True)(query, key, value)

    assert apart(compiled, fp8_attention(query, key, value)) < 0.01


class Graph:
    """Replaces cuDNN's graph: records its inputs and computes on the CPU."""

    def __init__(self, **_: Any) -> None:
        self.layouts: list[tuple[list[int], list[int]]] = []
        self.is_built = False

    def tensor(self, dim: list[int], stride: list[int], **_: Any) -> Any:
        return self._described(dim, stride)

    def sdpa_fp8(self, *inputs: Any, attn_scale: float, generate_stats: bool) -> list[Any]:
        self.inputs, self.scale = inputs, attn_scale
        assert generate_stats
        self.outputs = [self._described(None, None) for _ in range(4)]
        return self.outputs

    def build(self, _: Any) -> None:
        self.is_built = True

    def get_workspace_size(self) -> int:
        return 16

    def execute(self, tensors: dict[Any, torch.Tensor], workspace: torch.Tensor, handle: Any) -> None:
        assert self.is_built
        assert (workspace.numel(), handle) == (16, "handle")
        for described, given in tensors.items():
            assert described.dim == list(given.shape)
            strides = zip(described.stride, given.stride(), given.shape, strict=True)
            assert all(theirs == ours for theirs, ours, size in strides if size > 1)
        query, key, value, *scales = (tensors[each] for each in self.inputs)
        by_weights, weights, by_values = (float(each) for each in scales[3:])
        assert by_weights * weights == by_values * float(scales[2]) == 1.0
        assert self.scale == query.shape[-1] ** -0.5
        made = module._attend_on_cpu(query, key, value, *(each.reshape(1) for each in scales[:3]))
        for described, tensor in zip(self.outputs, made, strict=False):
            tensors[described].copy_(tensor)

    def _described(self, dim: Any, stride: Any) -> Any:
        class Described(SimpleNamespace):
            __hash__ = object.__hash__

            def set_output(self, _: bool) -> Any:
                return self

            def set_dim(self, dim: list[int]) -> Any:
                self.dim = dim
                return self

            def set_stride(self, stride: list[int]) -> Any:
                self.stride = stride
                return self

            def set_data_type(self, _: Any) -> Any:
                return self

        return Described(dim=dim, stride=stride)


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replaces cuDNN's package, and runs the device's work on the CPU."""
    package = SimpleNamespace(
        data_type=SimpleNamespace(FP8_E4M3="fp8", FLOAT="fp32"),
        heur_mode=SimpleNamespace(A="A", FALLBACK="fallback"),
        pygraph=Graph,
        create_handle=lambda: "handle",
        set_stream=lambda *_: None,
    )
    monkeypatch.setitem(sys.modules, "cudnn", package)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    for cached in (module._handle, module._graph):
        cached.cache_clear()
    yield
    for cached in (module._handle, module._graph):
        cached.cache_clear()


def test_cudnn_gets_tensors_of_its_graphs_shapes(cudnn: None) -> None:
    query, key, value = (part.to(DTYPE) for part in tensors(40))
    scales = [torch.tensor([each]) for each in (0.5, 0.25, 0.125)]
    more = torch.cat([key, key], dim=-2)

    # in the memory layout of a projection's output, and in another one
    made, log_sum = module._attend._init_fn(query, key, value, *scales)
    of_more, _ = module._attend._init_fn(query.transpose(1, 2).contiguous().transpose(1, 2), more, more, *scales)

    expected, expected_log_sum = module._attend_on_cpu(query, key, value, *scales)
    assert torch.equal(made.float(), expected.float())
    assert torch.equal(log_sum, expected_log_sum)
    assert of_more.shape == query.shape


def test_it_is_used_only_by_name_and_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights_folder: Path
) -> None:
    def on(capability: tuple[int, int]) -> Callable[[], Attention]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        return lambda: choose(Attention.FP8, CARD, lambda: OVER, tmp_path)

    monkeypatch.setitem(sys.modules, "cudnn", None)
    with pytest.raises(AttentionUnavailableError, match=r"capability 8\.9"):
        on((8, 9))()
    with pytest.raises(AttentionUnavailableError, match="nvidia-cudnn-frontend is not installed"):
        on((9, 0))()
    # a kernel that cannot run is refused at the start, not in the middle of a video
    monkeypatch.setitem(sys.modules, "cudnn", SimpleNamespace())
    with pytest.raises(AttentionUnavailableError, match="attention = fp8 cannot be used here: "):
        on((9, 0))()
    assert choose(Attention.FP8, CPU, lambda: OVER, tmp_path) is Attention.FP8
    spec = ModelSpec("random", fps=16, attention=Attention.FP8)
    assert Runner.load(spec, weights_folder, "cpu").fingerprint["attention"] == "fp8"
