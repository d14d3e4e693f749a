"""A transformer from one file makes the same video as from a folder."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.quantizers.gguf.utils import (
    SUPPORTED_GGUF_QUANT_TYPES,
    GGUFLinear,
    GGUFParameter,
    dequantize_gguf_tensor,
)
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from pipelines.core.geometry import Geometry
from pipelines.core.model import Lora, ModelSpec, WeightFile
from pipelines.core.precision import Precision
from pipelines.core.request import VideoParams
from pipelines.loading.device_plan import read_model_shape
from pipelines.loading.load import load_pipeline
from pipelines.loading.modules import WeightSource, load_weights, skeleton
from pipelines.loading.single_file import SingleFile
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.registry import family_of
from pipelines.planning.explain import choices
from pipelines.planning.layout import GIB, Layout, Machine, Residence
from pipelines.planning.memory_model import transformer_bytes
from pipelines.planning.planner import plan
from pipelines.runner.runner import Runner
from tests.support.models.wan_files import (
    PARTS,
    State,
    by_original_names,
    mixed_types,
    named,
    quantized,
    restored,
    write_gguf,
    write_safetensors,
)
from tests.support.video import psnr

PARAMS = VideoParams("an ox by a lake", " ", 48, 64, 1, 2, 1.0, 7)
STREAMS = (Residence.STREAMED, Residence.DISK)
TRANSFORMER = family_of("WanPipeline").part("transformer")


@pytest.fixture(scope="module")
def plain_video(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return video(Runner.load(ModelSpec("wide", fps=16), wide, "cpu"), tmp_path_factory.mktemp("plain"))


def spec(*files: WeightFile, loras: tuple[Lora, ...] = ()) -> ModelSpec:
    return ModelSpec("wide", fps=16, files=files, loras=loras)


def loaded(folder: Path, *files: Path, cache: Path, layout: Layout | None = None) -> Runner:
    named = tuple(WeightFile(str(file.parent), file.name, part) for part, file in zip(PARTS, files, strict=False))
    return Runner.load(ModelSpec("wide", fps=16, files=named), folder, "cpu", layout=layout, cache=cache)


def video(runner: Runner, folder: Path) -> bytes:
    return runner.run(PARAMS, folder / "video.mp4").path.read_bytes()


@torch.no_grad()
def noise_of(transformer: Any) -> torch.Tensor:
    """The output of a transformer for a fixed input."""
    generator, dtype = torch.Generator().manual_seed(1), transformer.dtype
    latents, text = (torch.randn(shape, generator=generator) for shape in ((1, 16, 2, 8, 8), (1, 7, 32)))
    return transformer(latents.to(dtype), torch.tensor([500.0]), text.to(dtype), return_dict=False)[0].float()


def read(folder: Path, file: Path, dtype: torch.dtype) -> Any:
    """The transformer of a file, as it is loaded."""
    module = skeleton(WanTransformer3DModel, folder / "transformer")
    SingleFile(file, TRANSFORMER).check(module)
    precision = Precision.GGUF if SingleFile(file, TRANSFORMER).is_quantized else Precision.BF16
    source = WeightSource(file, TRANSFORMER)
    load_weights(module, source, WeightFormat(module, precision, dtype, named=dict(source.headers())).convert)
    return module


def matrices_of_blocks(state: State) -> list[str]:
    return [n for n, t in state.items() if n.startswith("blocks.") and n.endswith(".weight") and t.ndim == 2]


# unquantized files


@pytest.mark.parametrize(
    "write",
    [
        lambda path, state: write_gguf(path.with_suffix(".gguf"), state, plain=Type.F32),
        lambda path, state: write_gguf(path.with_suffix(".gguf"), state, plain=Type.F16),
        lambda path, state: write_gguf(path.with_suffix(".gguf"), state, plain=Type.BF16),
        lambda path, state: write_safetensors(path.with_suffix(".safetensors"), state, torch.float32),
        lambda path, state: write_safetensors(path.with_suffix(".safetensors"), state, torch.float16),
        lambda path, state: write_safetensors(path.with_suffix(".safetensors"), state, torch.bfloat16),
        lambda path, state: write_safetensors(path.with_suffix(".safetensors"), state, torch.float8_e4m3fn),
    ],
    ids=["GGUF F32", "GGUF F16", "GGUF BF16", "fp32", "fp16", "bf16", "fp8"],
)
def test_every_dtype_and_naming_gives_the_same_weights(
    write: Callable[[Path, State], Path], state: State, wide: Path, bare: Path, tmp_path: Path
) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        expected = WanTransformer3DModel.from_pretrained(wide, subfolder="transformer", dtype=dtype).state_dict()
        for prefix in ("", "model.diffusion_model."):
            prefixed = {prefix + name: tensor for name, tensor in state.items()}
            for file in (
                write(tmp_path / "ours", prefixed),
                write(tmp_path / "theirs", by_original_names(state, prefix)),
            ):
                weights = read(bare, file, dtype).state_dict()
                assert weights.keys() == expected.keys()
                for name, tensor in expected.items():
                    assert weights[name].dtype == tensor.dtype, name
                    assert torch.equal(weights[name], tensor), name


def test_a_file_gives_the_same_video_as_a_folder(state: State, bare: Path, plain_video: bytes, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "plain.gguf", by_original_names(state), plain=Type.F16)

    assert video(loaded(bare, file, cache=tmp_path), tmp_path) == plain_video


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_fp8_with_scales_is_dequantized(prefix: str, state: State, bare: Path, tmp_path: Path) -> None:
    tensors: State = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in by_original_names(state, prefix).items():
        tensors[name] = tensor.half()
        if "blocks." in name and tensor.ndim == 2:
            layer = name.removesuffix(".weight")
            tensors[name] = (tensor * 16).to(torch.float8_e4m3fn)
            by_row = layer.endswith("self_attn.q")
            tensors[f"{layer}.scale_weight"] = torch.full((tensor.shape[0],) if by_row else (), 1 / 16)
            tensors[f"{layer}.scale_input"] = torch.ones(())
    save_file(tensors, tmp_path / "scaled.safetensors")

    weights = read(bare, tmp_path / "scaled.safetensors", torch.float32).state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


def test_a_flattened_convolution_gets_its_shape_back(state: State, bare: Path, tmp_path: Path) -> None:
    name = "patch_embedding.weight"
    shape = tuple(state[name].shape)
    writer = gguf.GGUFWriter(tmp_path / "flat.gguf", "wan")
    writer.add_array(f"comfy.gguf.orig_shape.{name}", shape)
    for key, tensor in by_original_names(state).items():
        writer.add_tensor(key, tensor.flatten().numpy() if key == name else tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    assert torch.equal(read(bare, tmp_path / "flat.gguf", torch.float32).patch_embedding.weight, state[name])


@pytest.mark.parametrize(
    "layout",
    [
        Layout(Precision.FP8, Residence.DISK),
        Layout(Precision.FP8_MATMUL, Residence.STREAMED),
        Layout(Precision.Q4),
        Layout(transformer=Residence.STREAMED),
    ],
)
def test_unquantized_files_work_with_every_precision_and_placement(
    layout: Layout, state: State, wide: Path, bare: Path, tmp_path: Path
) -> None:
    file = write_safetensors(tmp_path / "tuned.safetensors", by_original_names(state), torch.bfloat16)
    expected = load_pipeline(spec(), wide, "cpu", layout=layout, cache=tmp_path).pipe.transformer

    tuned = load_pipeline(spec(named(file)), bare, "cpu", layout=layout, cache=tmp_path).pipe.transformer

    assert torch.equal(noise_of(tuned), noise_of(expected))


# quantized files


@pytest.mark.parametrize("form", [form for form in SUPPORTED_GGUF_QUANT_TYPES if form.name[0] == "Q"], ids=str)
def test_quantized_weights_compute_like_their_dequantized_values(
    form: Type, state: State, bare: Path, tmp_path: Path
) -> None:
    matrices = matrices_of_blocks(state)
    file = write_gguf(tmp_path / "short.gguf", state, dict.fromkeys(matrices, form))
    meant = {name: restored(tensor, form) if name in matrices else tensor for name, tensor in state.items()}
    plainly = write_safetensors(tmp_path / "meant.safetensors", meant, torch.float32)

    short = read(bare, file, torch.float32)

    assert all(type(short.get_submodule(name.removesuffix(".weight"))) is GGUFLinear for name in matrices)
    expected = noise_of(read(bare, plainly, torch.float32))
    assert (noise_of(short) - expected).norm() < 0.003 * expected.norm()


def test_a_quantized_transformer_computes_in_bf16(mixed: Path, bare: Path) -> None:
    expected = noise_of(read(bare, mixed, torch.float32))
    short = read(bare, mixed, torch.bfloat16)

    assert short.dtype is torch.bfloat16
    assert 0 < (noise_of(short) - expected).norm() < 0.03 * expected.norm()


def test_each_tensor_of_a_mixed_file_has_the_right_format(mixed: Path, state: State, bare: Path) -> None:
    transformer = read(bare, mixed, torch.bfloat16)
    forms = mixed_types(state)

    for name, parameter in transformer.named_parameters():
        form = forms.get(name, Type.F32)
        meant = restored(state[name], form)
        if isinstance(parameter, GGUFParameter):
            assert parameter.quant_type is form
            assert np.array_equal(parameter.as_tensor().numpy(), quantized(state[name], form)), name
        torch.testing.assert_close(dequantize_gguf_tensor(parameter).float(), meant, rtol=0.01, atol=3e-4)
    assert type(transformer.condition_embedder.time_proj) is GGUFLinear
    # fp32 in every case
    assert transformer.condition_embedder.time_embedder.linear_1.weight.dtype is torch.float32


def test_a_streamed_quantized_transformer_gives_the_same_bytes(mixed: Path, bare: Path, tmp_path: Path) -> None:
    expected = video(loaded(bare, mixed, cache=tmp_path), tmp_path)

    for residence, blocks in product(STREAMS, (0, 1)):
        runner = loaded(
            bare, mixed, cache=tmp_path / "cache", layout=Layout(Precision.GGUF, residence, resident_blocks=blocks)
        )
        # the first pass moves every tensor for the first time
        videos = [video(runner, tmp_path) for _ in range(2)]
        # a CPU computes on the mapped file itself, whose alignment may change the rounding
        assert all(made == expected for made in videos) or (
            residence is Residence.DISK and min(psnr(made, expected) for made in videos) > 40
        )
    # the file itself is mapped, not a converted copy
    assert not (tmp_path / "cache" / "weights").exists()


def test_a_lora_is_merged_into_unquantized_files(state: State, wide: Path, bare: Path, tmp_path: Path) -> None:
    layer = "transformer.blocks.0.attn1.to_v"
    save_file(
        {f"{layer}.lora_A.weight": torch.full((1, 256), 0.1), f"{layer}.lora_B.weight": torch.full((256, 1), 0.1)},
        tmp_path / "lora.safetensors",
    )
    lora = Lora(str(tmp_path), "lora.safetensors")
    file = write_gguf(tmp_path / "plain.gguf", by_original_names(state), plain=Type.F16)
    expected = load_pipeline(spec(loras=(lora,)), wide, "cpu").pipe.transformer

    merged = load_pipeline(spec(named(file), loras=(lora,)), bare, "cpu").pipe.transformer

    assert torch.equal(noise_of(merged), noise_of(expected))


def test_the_fingerprint_has_the_file_but_not_the_weights_it_replaces(mixed: Path, wide: Path, bare: Path) -> None:
    one, other = (load_pipeline(spec(named(mixed)), folder, "cpu").fingerprint for folder in (wide, bare))

    assert one["files"].startswith("transformer mixed.gguf/")
    assert one["files"] == other["files"]
    before = load_pipeline(spec(), wide, "cpu").fingerprint
    assert before["files"] == ""
    assert one["weights"] != before["weights"]


# two experts


def test_each_expert_can_have_its_own_file(experts: Path, tmp_path: Path) -> None:
    states = [load_file(experts / p / "diffusion_pytorch_model.safetensors") for p in PARTS]
    high, low = (
        write_safetensors(tmp_path / f"{name}.safetensors", by_original_names(state), torch.bfloat16)
        for name, state in zip(("high", "low"), states, strict=True)
    )
    expected = video(Runner.load(ModelSpec("experts", fps=16), experts, "cpu"), tmp_path)

    assert video(loaded(experts, high, low, cache=tmp_path), tmp_path) == expected
    assert video(loaded(experts, low, high, cache=tmp_path), tmp_path) != expected


def test_an_expert_beside_a_quantized_one_stays_in_bf16(experts: Path, mixed: Path, tmp_path: Path) -> None:
    transformer = read_model_shape(spec(), experts).transformer

    shape = read_model_shape(spec(named(mixed)), experts)

    assert shape.quantized[1] == transformer.in_bf16
    parameters = transformer.num_layers * transformer.block_parameters + transformer.other_parameters
    quantized = sum(shape.quantized[0].blocks) + shape.quantized[0].others
    assert transformer_bytes(shape, Precision.GGUF) == quantized + 2 * parameters
    machine = Machine(8 * GIB, 64 * GIB, (8, 9))
    chosen = plan(shape, Geometry.fit(96, 64, 9, shape.grid), machine)
    assert "the other transformer in bf16" in choices(chosen, shape, machine)["transformer weights"].reason
    expected = video(loaded(experts, mixed, cache=tmp_path), tmp_path)
    streamed = loaded(experts, mixed, cache=tmp_path, layout=Layout(Precision.GGUF, Residence.STREAMED))
    assert video(streamed, tmp_path) == expected
    kinds = [type(getattr(streamed._loaded.pipe, part).blocks[0].attn1.to_q) for part in PARTS]
    assert kinds == [GGUFLinear, torch.nn.Linear]
