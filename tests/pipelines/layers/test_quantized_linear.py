"""Products in fp8 and int8: torchao's values, the stated memory traffic, and nearly the same videos."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchao.float8.inference import Float8MMConfig
from torchao.quantization import (
    Float8Tensor,
    Int8DynamicActivationInt8WeightConfig,
    PerRow,
    quantize_,
)
from torchao.quantization.quantize_.common import KernelPreference
from torchao.quantization.quantize_.workflows.float8.float8_tensor import QuantizeTensorToFloat8Kwargs

from demo_training.judge import judge
from pipelines.core.errors import GenerationSuspended
from pipelines.core.model import ModelSpec
from pipelines.core.precision import Precision
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.layers.quantized_linear import QuantizedLinear, quantize, scale_name, use_quantized_linear
from pipelines.planning.cost_model import ROUNDING_BYTES
from pipelines.planning.layout import Layout
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint
from tests.support.video import psnr, read_video

FORMS = (Precision.FP8_MATMUL, Precision.INT8_MATMUL)


def scaled(linear: torch.nn.Linear, precision: Precision) -> QuantizedLinear:
    """A quantized layer that replaces another."""
    made = QuantizedLinear(linear, precision, linear.weight.dtype)
    weight, scale = quantize(linear.weight.detach(), precision)
    made.weight, made.weight_scale = (torch.nn.Parameter(each, requires_grad=False) for each in (weight, scale))
    made.bias = None if linear.bias is None else torch.nn.Parameter(linear.bias.detach(), requires_grad=False)
    return made


def by_torchao(linear: torch.nn.Linear, precision: Precision) -> torch.nn.Module:
    """The same layer by torchao's configurations, of which the one for fp8 needs a GPU."""
    other = torch.nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype)
    other.load_state_dict(linear.state_dict())
    if precision is Precision.INT8_MATMUL:
        quantize_(other, Int8DynamicActivationInt8WeightConfig())
        return other
    kind: Any = Float8Tensor
    other.weight = torch.nn.Parameter(
        kind.from_hp(
            linear.weight.detach(),
            granularity=PerRow(),
            mm_config=Float8MMConfig(use_fast_accum=True),
            kernel_preference=KernelPreference.TORCH,
            act_quant_kwargs=QuantizeTensorToFloat8Kwargs(
                granularity=PerRow(), kernel_preference=KernelPreference.TORCH
            ),
        ),
        requires_grad=False,
    )
    return other


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The relative distance of one tensor from another."""
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("precision", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_the_product_equals_torchaos(precision: Precision, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear, values = torch.nn.Linear(128, 64, dtype=dtype), torch.randn(2, 40, 128).to(dtype)
    # a token with large values does not affect the others: each has its own scale
    values[0, 3] *= 1000
    exact, theirs = linear(values), by_torchao(linear, precision)(values)

    ours = scaled(linear, precision)(values)

    assert ours.dtype is dtype
    quiet = [ours[1], theirs[1], exact[1]]
    assert apart(quiet[0], quiet[1]) < 0.5 * apart(quiet[1], quiet[2]) + 0.005
    assert apart(quiet[0], quiet[2]) < 1.1 * apart(quiet[1], quiet[2]) < 0.05
    assert apart(ours, exact) < 0.05


@pytest.mark.parametrize("precision", FORMS)
@torch.no_grad()
def test_a_token_does_not_depend_on_the_others_of_its_chunk(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, values = scaled(torch.nn.Linear(32, 48), precision), torch.randn(1, 101, 32)
    at_once = layer(values)

    monkeypatch.setattr("pipelines.layers.quantized_linear.CHUNK_TOKENS", 20)

    torch.testing.assert_close(layer(values), at_once)


@pytest.mark.parametrize("precision", FORMS)
@torch.no_grad()
def test_zeros_stay_zeros(precision: Precision) -> None:
    linear = torch.nn.Linear(16, 32, bias=False)
    linear.weight[5] = 0
    made = scaled(linear, precision)(torch.stack([torch.zeros(16), torch.ones(16)]))

    assert torch.isfinite(made).all()
    assert made[0].abs().max() == 0
    assert made[1, 5] == 0


class Traffic(TorchDispatchMode):
    """Counts the bytes that tensor operations read and write, without those of the product itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_int_mm":
            # its output is int32 instead of bf16
            self.bytes += result.nbytes // 2
        elif name != "_scaled_mm" and not func.is_view and not name.startswith("new_empty"):
            tensors = [value for value in tree_leaves((args, kwargs or {})) if isinstance(value, torch.Tensor)]
            written = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
            # an in-place operation also reads its output; an `out` argument is only written
            read = [value for value in tensors if value is not (kwargs or {}).get("out")]
            self.bytes += sum(value.nbytes for value in read + written)
        return result


@pytest.mark.parametrize("precision", FORMS)
@torch.no_grad()
def test_quantizing_moves_the_bytes_that_the_cost_model_counts(precision: Precision) -> None:
    width, tokens = 1024, 2048
    layer = scaled(torch.nn.Linear(width, width, dtype=torch.bfloat16), precision)
    values = torch.randn(tokens, width, dtype=torch.bfloat16)
    with Traffic() as traffic:
        layer(values)

    assert traffic.bytes / values.numel() == pytest.approx(ROUNDING_BYTES[precision], rel=0.03)


@pytest.mark.parametrize("precision", FORMS)
def test_only_the_blocks_matrices_are_quantized(precision: Precision) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(num_layers=2)
    before = dict(transformer.named_parameters())

    found = use_quantized_linear(transformer, precision, torch.bfloat16)

    projections = product(("attn1", "attn2"), ("to_q", "to_k", "to_v", "to_out.0"))
    layers = [*(".".join(names) for names in projections), "ffn.net.0.proj", "ffn.net.2"]
    assert set(found) == {f"blocks.{index}.{layer}.weight" for index in range(2) for layer in layers}
    after = dict(transformer.named_parameters())
    assert after.keys() - before.keys() == {scale_name(name) for name in found}
    biases = {name.removesuffix("weight") + "bias" for name in found}
    for name, parameter in before.items():
        if name in found:
            assert after[name].shape == parameter.shape
            assert after[name].itemsize == 1
        elif name in biases:
            assert after[name].dtype is torch.bfloat16
        else:
            assert after[name] is parameter


def test_matrices_with_unsupported_sides_stay_exact() -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=1
        )

    assert use_quantized_linear(transformer, Precision.FP8_MATMUL, torch.bfloat16) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The demo's trained weights, multiplied in fp8."""
    cache = tmp_path_factory.mktemp("cache")
    return Runner.load(
        ModelSpec("demo", fps=16), demo_folder(), "cpu", layout=Layout(Precision.FP8_MATMUL), cache=cache
    )


@pytest.mark.parametrize(
    ("prompt", "background", "colour", "motion"),
    [
        ("A red circle moving left on a blue background", "blue", "red", "left"),
        ("黄色背景上，一个绿色的圆环向下移动", "yellow", "green", "down"),
    ],
)
def test_videos_still_show_what_the_prompt_says(
    prompt: str, background: str, colour: str, motion: str, trained: Runner, tmp_path: Path
) -> None:
    params = VideoParams(prompt, " ", 128, 128, 17, 12, 4.0, 1)
    exact = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu").run(params, tmp_path / "exact.mp4").path

    made = trained.run(params, tmp_path / "video.mp4").path

    assert 25 < psnr(made, exact) < 60
    seen = judge(read_video(made))
    assert (seen.background, seen.colour, seen.motion) == (background, colour, motion)


def test_a_generation_resumes_only_in_its_precision(weights_folder: Path, demo_runner: Runner, tmp_path: Path) -> None:
    params, path = VideoParams("an ox", " ", 64, 96, 5, 4, 5.0, 7), tmp_path / "half.ckpt"
    runner = Runner.load(
        ModelSpec("demo", fps=16), weights_folder, "cpu", layout=Layout(Precision.FP8_MATMUL), cache=tmp_path
    )
    whole = runner.run(params, tmp_path / "whole.mp4").path.read_bytes()
    assert runner.fingerprint["precision"] == "fp8 matmuls"

    def stop_halfway() -> None:
        path.unlink(missing_ok=True)
        done: list[int] = []
        checkpoint = Checkpoint(path, 1000.0, lambda: len(done) > 2)
        with pytest.raises(GenerationSuspended):
            runner.run(params, tmp_path / "half.mp4", Callbacks(lambda at: done.append(at.step), checkpoint=checkpoint))
        assert path.is_file()

    def first_step(gone_on_by: Runner, name: str) -> int:
        seen: list[Progress] = []
        gone_on_by.run(params, tmp_path / name, Callbacks(seen.append, checkpoint=Checkpoint(path, 1000.0)))
        return next(report.step for report in seen if report.stage is Stage.DENOISE)

    stop_halfway()
    assert first_step(runner, "resumed.mp4") > 0
    assert (tmp_path / "resumed.mp4").read_bytes() == whole
    # with exact weights the generation starts over
    stop_halfway()
    assert first_step(demo_runner, "exact.mp4") == 0
