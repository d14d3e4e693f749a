"""A transformer from one file: the same video as from the same weights in a folder; other files are refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
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

from pipelines.core.errors import PipelineError, UnsupportedModelError, WeightsNotFoundError
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
    """What a transformer makes of a fixed input."""
    generator, dtype = torch.Generator().manual_seed(1), transformer.dtype
    latents, text = (torch.randn(shape, generator=generator) for shape in ((1, 16, 2, 8, 8), (1, 7, 32)))
    return transformer(latents.to(dtype), torch.tensor([500.0]), text.to(dtype), return_dict=False)[0].float()


def read(folder: Path, file: Path, dtype: torch.dtype) -> Any:
    """The transformer of a file, as loading makes it."""
    module = skeleton(WanTransformer3DModel, folder / "transformer")
    SingleFile(file, TRANSFORMER).check(module)
    precision = Precision.GGUF if SingleFile(file, TRANSFORMER).is_quantized else Precision.BF16
    source = WeightSource(file, TRANSFORMER)
    load_weights(module, source, WeightFormat(module, precision, dtype, named=dict(source.headers())).convert)
    return module


def matrices_of_blocks(state: State) -> list[str]:
    return [n for n, t in state.items() if n.startswith("blocks.") and n.endswith(".weight") and t.ndim == 2]


# plain numbers


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
def test_plain_numbers_of_every_kind_and_name_are_the_same_weights(
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


def test_a_file_gives_the_video_of_the_same_weights_in_a_folder(
    state: State, bare: Path, plain_video: bytes, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "plain.gguf", by_original_names(state), plain=Type.F16)

    assert video(loaded(bare, file, cache=tmp_path), tmp_path) == plain_video


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_fp8_with_scales_is_what_it_stands_for(prefix: str, state: State, bare: Path, tmp_path: Path) -> None:
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


def test_a_convolution_flattened_by_its_converter_is_unfolded(state: State, bare: Path, tmp_path: Path) -> None:
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
def test_plain_numbers_go_with_every_precision_and_place(
    layout: Layout, state: State, wide: Path, bare: Path, tmp_path: Path
) -> None:
    file = write_safetensors(tmp_path / "tuned.safetensors", by_original_names(state), torch.bfloat16)
    expected = load_pipeline(spec(), wide, "cpu", layout=layout, cache=tmp_path).pipe.transformer

    tuned = load_pipeline(spec(named(file)), bare, "cpu", layout=layout, cache=tmp_path).pipe.transformer

    assert torch.equal(noise_of(tuned), noise_of(expected))


# quantized


@pytest.mark.parametrize("form", [form for form in SUPPORTED_GGUF_QUANT_TYPES if form.name[0] == "Q"], ids=str)
def test_quantized_weights_act_as_what_they_stand_for(form: Type, state: State, bare: Path, tmp_path: Path) -> None:
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


def test_each_tensor_of_a_mixed_file_is_kept_as_it_should_be(mixed: Path, state: State, bare: Path) -> None:
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
    # in fp32 whatever it was
    assert transformer.condition_embedder.time_embedder.linear_1.weight.dtype is torch.float32


def test_a_streamed_quantized_transformer_gives_the_same_bytes(mixed: Path, bare: Path, tmp_path: Path) -> None:
    expected = video(loaded(bare, mixed, cache=tmp_path), tmp_path)

    for residence, blocks in product(STREAMS, (0, 1)):
        runner = loaded(
            bare, mixed, cache=tmp_path / "cache", layout=Layout(Precision.GGUF, residence, resident_blocks=blocks)
        )
        # the first pass moves everything for the first time
        videos = [video(runner, tmp_path) for _ in range(2)]
        # a processor computes with a map's plain tensors in their place, which may round otherwise
        assert all(made == expected for made in videos) or (
            residence is Residence.DISK and min(psnr(made, expected) for made in videos) > 40
        )
    # from disk it comes from the file itself
    assert not (tmp_path / "cache" / "weights").exists()


def test_a_lora_is_merged_into_plain_numbers_and_refused_by_quantized_ones(
    mixed: Path, state: State, wide: Path, bare: Path, tmp_path: Path
) -> None:
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
    with pytest.raises(UnsupportedModelError, match=r"lora\.safetensors cannot be merged into mixed\.gguf"):
        load_pipeline(spec(named(mixed), loras=(lora,)), bare, "cpu")


def test_the_fingerprint_names_the_file_and_not_what_it_replaces(mixed: Path, wide: Path, bare: Path) -> None:
    one, other = (load_pipeline(spec(named(mixed)), folder, "cpu").fingerprint for folder in (wide, bare))

    assert one["files"].startswith("transformer mixed.gguf/")
    assert one["files"] == other["files"]
    before = load_pipeline(spec(), wide, "cpu").fingerprint
    assert before["files"] == ""
    assert one["weights"] != before["weights"]


# wrong files


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: without(state, "head.head.bias"), r"wrong\.\w+ has no proj_out\.bias\."),
        (
            lambda state: {k: t for k, t in state.items() if "blocks.1.ffn" not in k},
            r"has no blocks\.1\.ffn\.net\.0\.proj\.bias and 3 other tensors",
        ),
        (
            lambda state: {**state, "blocks.0.cross_attn.k_img.weight": torch.ones(256, 256)},
            r"wrong\.\w+ is for another kind of model: it also has blocks\.0\.attn2\.add_k_proj\.weight",
        ),
        (
            lambda state: {**state, "blocks.0.ffn.0.weight": torch.ones(512, 256)},
            r"blocks\.0\.ffn\.net\.0\.proj\.weight is \[512, 256\], but \[256, 256\] in the configuration",
        ),
        (
            lambda _: {"double_blocks.0.img_attn.qkv.weight": torch.ones(8, 8)},
            r"wrong\.\w+ has no weights of a Wan transformer: it has double_blocks\.0",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_a_file_of_something_else_is_refused_by_what_is_wrong(
    change: Callable[[State], State], sentence: str, suffix: str, state: State, bare: Path, tmp_path: Path
) -> None:
    wrong = change(by_original_names(state))
    path = tmp_path / f"wrong{suffix}"
    if suffix == ".gguf":
        matrix = "blocks.0.ffn.0.weight"
        write_gguf(path, wrong, {matrix: Type.Q8_0} if matrix in wrong else None)
    else:
        write_safetensors(path, wrong, torch.bfloat16)

    with pytest.raises(UnsupportedModelError, match=sentence):
        load_pipeline(spec(named(path)), bare, "cpu")


@pytest.mark.parametrize(
    ("weight", "scale", "sentence"),
    [
        (torch.float8_e4m3fn, torch.ones(256, 8), "with unsupported scales"),
        (torch.int8, torch.ones(256, 1), "with unsupported scales"),
        (torch.int8, None, r"blocks\.0\.ffn\.net\.0\.proj\.weight as int8, which is not supported"),
    ],
)
def test_other_quantizations_are_refused(
    weight: torch.dtype, scale: torch.Tensor | None, sentence: str, state: State, bare: Path, tmp_path: Path
) -> None:
    tensors = by_original_names(state)
    tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].to(weight)
    if scale is not None:
        tensors["blocks.0.ffn.0.weight_scale"] = scale
    save_file(tensors, tmp_path / "other.safetensors")

    with pytest.raises(UnsupportedModelError, match=sentence):
        load_pipeline(spec(named(tmp_path / "other.safetensors")), bare, "cpu")


@pytest.mark.parametrize("left", [0, 3, 100, 20_000, -1000])
@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_a_file_that_is_cut_off_is_refused(
    left: int, suffix: str, mixed: Path, state: State, bare: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".gguf":
        shutil.copy(mixed, path)
    else:
        write_safetensors(path, state, torch.bfloat16)
    with path.open("r+b") as file:
        file.truncate(left if left >= 0 else path.stat().st_size + left)

    for use in (
        lambda: load_pipeline(spec(named(path)), bare, "cpu"),
        lambda: read_model_shape(spec(named(path)), bare),
    ):
        with pytest.raises(WeightsNotFoundError, match=rf"cut\{suffix} is truncated, damaged or in another format"):
            use()


def test_a_form_that_diffusers_cannot_restore_is_refused(state: State, bare: Path, tmp_path: Path) -> None:
    name = "blocks.0.ffn.0.weight"
    path = write_gguf(tmp_path / "new.gguf", by_original_names(state), {name: Type.TQ2_0})

    with pytest.raises(UnsupportedModelError, match=rf"new\.gguf has {name} as TQ2_0, .* Use a file with .*Q4_K"):
        load_pipeline(spec(named(path)), bare, "cpu")


def test_a_wrong_file_is_refused_before_anything_is_read(experts: Path, mixed: Path, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "wrong.safetensors", {"blocks.0.weight": torch.ones(8, 8)}, torch.half)

    with pytest.raises(UnsupportedModelError, match="has no weights"):
        load_pipeline(
            spec(named(mixed), replace(named(path), part="transformer_2")),
            experts,
            "cpu",
            lambda *_: pytest.fail("nothing should be read"),
        )


# two experts


def test_each_expert_has_a_file_of_its_own(experts: Path, tmp_path: Path) -> None:
    states = [load_file(experts / p / "diffusion_pytorch_model.safetensors") for p in PARTS]
    high, low = (
        write_safetensors(tmp_path / f"{name}.safetensors", by_original_names(state), torch.bfloat16)
        for name, state in zip(("high", "low"), states, strict=True)
    )
    expected = video(Runner.load(ModelSpec("experts", fps=16), experts, "cpu"), tmp_path)

    assert video(loaded(experts, high, low, cache=tmp_path), tmp_path) == expected
    assert video(loaded(experts, low, high, cache=tmp_path), tmp_path) != expected


def test_an_expert_beside_a_quantized_one_keeps_its_bf16(experts: Path, mixed: Path, tmp_path: Path) -> None:
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


def test_a_part_that_is_not_there_has_no_file(bare: Path, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="has no transformer_2"):
        load_pipeline(spec(replace(named(mixed), part="transformer_2")), bare, "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match="model_index"):
        load_pipeline(spec(named(mixed)), tmp_path / "empty", "cpu")


def test_a_config_is_still_the_folders(bare: Path, mixed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bare, tmp_path / "folder"))
    (folder / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"transformer/config\.json is missing"):
        load_pipeline(spec(named(mixed)), folder, "cpu")
