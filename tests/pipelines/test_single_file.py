"""A transformer from one file: the same video as from the same weights in a folder, planned for as what it is."""

import json
import shutil
from collections.abc import Callable, Mapping
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

from pipelines import single_file
from pipelines.catalogue import read_catalogue
from pipelines.errors import PipelineError, UnsupportedModelError, WeightsNotFoundError
from pipelines.geometry import Geometry
from pipelines.load import load_pipeline, shape_here
from pipelines.memory import (
    GIB,
    Layout,
    Machine,
    Residence,
    _transformer_bytes,
    _whole_bytes,
    choices,
    plan,
    priced,
)
from pipelines.precision import Precision
from pipelines.reading import fill, headers, skeleton
from pipelines.runner import Runner
from pipelines.shapes import FileShape, ModelShape, parse_shape
from pipelines.spec import Lora, ModelSpec, VideoParams, WeightFile
from pipelines.storage import Storage
from tests.pipelines.trace import PeakBytes
from tests.pipelines.wan22 import a14b_folder
from tests.pipelines.wan_files import (
    by_original_names,
    quantized,
    restored,
    wide_folder,
    wide_transformer,
    write_gguf,
    write_safetensors,
)
from tests.video import psnr

PARAMS = VideoParams("an ox by a lake", " ", 48, 64, 1, 2, 1.0, 7)
State = dict[str, torch.Tensor]
PARTS = ("transformer", "transformer_2")
STREAMS = (Residence.STREAMED, Residence.MAPPED)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_folder(tmp_path_factory.mktemp("wide") / "weights")


@pytest.fixture(scope="module")
def state(wide: Path) -> State:
    """The transformer's weights by diffusers' names."""
    return load_file(wide / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def bare(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder without the transformer's weights."""
    folder = Path(shutil.copytree(wide, tmp_path_factory.mktemp("bare") / "weights"))
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


@pytest.fixture(scope="module")
def plain_video(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return video(Runner.load(ModelSpec("wide", fps=16), wide, "cpu"), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def mixed(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with many forms beside each other, as the larger quantizations have them."""
    return write_gguf(
        tmp_path_factory.mktemp("mixed") / "mixed.gguf",
        by_original_names(state),
        by_original_names(mixed_types(state)),
    )


def mixed_types(state: State) -> dict[str, Any]:
    """Forms of the matrices by diffusers' names: K-quants where 256 numbers are in a row."""
    forms: dict[str, Any] = {
        "patch_embedding.weight": Type.F16,
        "condition_embedder.time_proj.weight": Type.Q5_K,
        "condition_embedder.time_embedder.linear_1.weight": Type.Q8_0,
        "condition_embedder.text_embedder.linear_1.weight": Type.Q4_0,
        "condition_embedder.text_embedder.linear_2.weight": Type.BF16,
        "proj_out.weight": Type.F16,
    }
    for name in state:
        if name.startswith("blocks.") and name.endswith(".weight") and state[name].ndim == 2:
            forms[name] = Type.Q6_K if "to_v" in name or "ffn.net.2" in name else Type.Q4_K
    # blocks need not be alike
    forms["blocks.1.ffn.net.2.weight"] = Type.Q8_0
    forms["blocks.1.attn1.to_k.weight"] = Type.F16
    return forms


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
    single_file.check(file, module)
    precision = Precision.GGUF if single_file.is_quantized(file) else Precision.BF16
    fill(module, file, Storage(module, precision, dtype, named=dict(headers(file))).keep)
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


def named(file: Path) -> WeightFile:
    return WeightFile(str(file.parent), file.name)


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
        Layout(Precision.FP8, Residence.MAPPED),
        Layout(Precision.FP8_MATMUL, Residence.STREAMED),
        Layout(Precision.Q4),
        Layout(transformer=Residence.STREAMED),
    ],
)
def test_plain_numbers_go_with_every_precision_and_place(
    layout: Layout, state: State, wide: Path, bare: Path, tmp_path: Path
) -> None:
    file = write_safetensors(tmp_path / "tuned.safetensors", by_original_names(state), torch.bfloat16)
    expected = load_pipeline(wide, "cpu", layout=layout, cache=tmp_path).pipe.transformer

    tuned = load_pipeline(bare, "cpu", layout=layout, cache=tmp_path, files=[named(file)]).pipe.transformer

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
            residence is Residence.MAPPED and min(psnr(made, expected) for made in videos) > 40
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
    expected = load_pipeline(wide, "cpu", loras=[lora]).pipe.transformer

    merged = load_pipeline(bare, "cpu", loras=[lora], files=[named(file)]).pipe.transformer

    assert torch.equal(noise_of(merged), noise_of(expected))
    with pytest.raises(UnsupportedModelError, match=r"lora\.safetensors cannot be merged into mixed\.gguf"):
        load_pipeline(bare, "cpu", loras=[lora], files=[named(mixed)])


def test_the_fingerprint_names_the_file_and_not_what_it_replaces(mixed: Path, wide: Path, bare: Path) -> None:
    one, other = (load_pipeline(folder, "cpu", files=[named(mixed)]).fingerprint for folder in (wide, bare))

    assert one["files"].startswith("transformer mixed.gguf/")
    assert one["files"] == other["files"]
    before = load_pipeline(wide, "cpu").fingerprint
    assert before["files"] == ""
    assert one["weights"] != before["weights"]


# wrong files


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: without(state, "head.head.bias"), r"wrong\.\w+ lacks proj_out\.bias\."),
        (
            lambda state: {k: t for k, t in state.items() if "blocks.1.ffn" not in k},
            r"lacks blocks\.1\.ffn\.net\.0\.proj\.bias and 3 other tensors",
        ),
        (
            lambda state: {**state, "blocks.0.cross_attn.k_img.weight": torch.ones(256, 256)},
            r"wrong\.\w+ is for another kind of model: it also has blocks\.0\.attn2\.add_k_proj\.weight",
        ),
        (
            lambda state: {**state, "blocks.0.ffn.0.weight": torch.ones(512, 256)},
            r"blocks\.0\.ffn\.net\.0\.proj\.weight is \[512, 256\] there, \[256, 256\] in the configuration",
        ),
        (
            lambda _: {"double_blocks.0.img_attn.qkv.weight": torch.ones(8, 8)},
            r"wrong\.\w+ holds no weights of a Wan transformer: it has double_blocks\.0",
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
        load_pipeline(bare, "cpu", files=[named(path)])


@pytest.mark.parametrize(
    ("weight", "scale", "sentence"),
    [
        (torch.float8_e4m3fn, torch.ones(256, 8), "with scales of a kind that is not read"),
        (torch.int8, torch.ones(256, 1), "with scales of a kind that is not read"),
        (torch.int8, None, r"blocks\.0\.ffn\.net\.0\.proj\.weight as int8, a form that is not read"),
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
        load_pipeline(bare, "cpu", files=[named(tmp_path / "other.safetensors")])


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

    for use in (lambda: load_pipeline(bare, "cpu", files=[named(path)]), lambda: shape_here(bare, [named(path)])):
        with pytest.raises(WeightsNotFoundError, match=rf"cut\{suffix} is cut off, damaged or of another format"):
            use()


def test_a_form_that_diffusers_cannot_restore_is_refused(state: State, bare: Path, tmp_path: Path) -> None:
    name = "blocks.0.ffn.0.weight"
    path = write_gguf(tmp_path / "new.gguf", by_original_names(state), {name: Type.TQ2_0})

    with pytest.raises(UnsupportedModelError, match=rf"new\.gguf has {name} as TQ2_0, .* Take one with .*Q4_K"):
        load_pipeline(bare, "cpu", files=[named(path)])


# plans


def test_what_is_measured_is_what_is_kept(mixed: Path, bare: Path) -> None:
    module = skeleton(WanTransformer3DModel, bare / "transformer")
    storage = Storage(module, Precision.GGUF, torch.bfloat16, named=dict(headers(mixed)))
    fill(module, mixed, storage.keep)
    sizes = {name: parameter.nbytes for name, parameter in module.named_parameters()}

    measured = single_file.measure(mixed)

    kept = measured.kept
    assert kept is not None
    assert (measured.name, set(measured.forms)) == (
        "mixed.gguf",
        {"Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "bfloat16", "float16", "float32"},
    )
    for index, size in enumerate(kept.blocks):
        assert size == sum(size for name, size in sizes.items() if name.startswith(f"blocks.{index}."))
    assert kept.blocks[0] != kept.blocks[1]
    assert sum(kept.blocks) + kept.others == sum(sizes.values())
    assert all(held <= pinned < 2 * held for held, pinned in zip(kept.blocks, kept.pinned_blocks, strict=True))
    plain = (
        parameter.nbytes
        for name, parameter in module.named_parameters()
        if name.startswith("blocks.") and not isinstance(parameter, GGUFParameter)
    )
    assert kept.converted == sum(plain)


@pytest.mark.parametrize("form", [form for form in SUPPORTED_GGUF_QUANT_TYPES if form is not Type.BF16])
def test_restoring_a_matrix_takes_what_is_planned_for_it(form: Type) -> None:
    count, size = gguf.GGML_QUANT_SIZES[form]
    weight = GGUFParameter(torch.zeros(512, 512 // count * size, dtype=torch.uint8), quant_type=form)
    with torch.no_grad(), PeakBytes([weight]) as traced:
        dequantize_gguf_tensor(weight).to(torch.bfloat16)

    assert single_file.RESTORED_BYTES[form.name] * 512**2 == pytest.approx(traced.peak, rel=0.1)


ENTRY = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]


@pytest.fixture(scope="module")
def wan_14b(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    """The published model's shapes, its weights from a file of that size in Q4_K with Q6_K, of which only the header
    is on the disk.
    """
    assert ENTRY.model.shape is not None
    path = tmp_path_factory.mktemp("14b") / "wan-Q4_K_M.gguf"
    with torch.device("meta"):
        transformer = WanTransformer3DModel()
    writer = gguf.GGUFWriter(path, "wan")
    for name, parameter in transformer.named_parameters():
        is_matrix = name.startswith("blocks.") and parameter.ndim == 2
        form = (Type.Q6_K if "ffn.net.2" in name else Type.Q4_K) if is_matrix else Type.F32
        count, size = gguf.GGML_QUANT_SIZES[form]
        writer.add_tensor_info(
            by_original_name(name), parameter.shape, np.dtype(np.float32), parameter.numel() // count * size, form
        )
    total = sum(gguf.GGUFWriter.ggml_pad(info.nbytes, 32) for info in writer.tensors[0].values())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + total + 32)
    return parse_shape(ENTRY.model.shape).with_files((single_file.measure(path),))


def by_original_name(name: str) -> str:
    return next(iter(by_original_names({name: torch.empty(0)})))


def test_a_plan_counts_what_the_file_holds(wan_14b: ModelShape) -> None:
    plain = replace(wan_14b, files=())
    matrices = wan_14b.transformer.block_matrix_parameters
    down = wan_14b.transformer.width * wan_14b.transformer.ffn_dim
    block = (matrices - down) * 144 / 256 + down * 210 / 256

    (kept,) = wan_14b.kept
    assert kept.blocks[0] == pytest.approx(block, rel=0.002)
    assert _whole_bytes(wan_14b, Precision.GGUF) == pytest.approx(40 * block + kept.others, rel=0.002)
    assert kept.others == pytest.approx(_whole_bytes(plain, Precision.BF16) - 40 * 2 * matrices, rel=0.2)
    resident, streamed = (
        _transformer_bytes(wan_14b, Layout(Precision.GGUF, residence, resident_blocks=blocks))
        for residence, blocks in ((Residence.RESIDENT, 0), (Residence.STREAMED, 30))
    )
    assert resident[0] == _whole_bytes(wan_14b, Precision.GGUF)
    assert streamed == (30 * kept.blocks[0], 32 * kept.blocks[0] + kept.others)


@pytest.mark.parametrize(
    ("card", "host", "name"),
    [
        (24, 32, "GGUF resident, text encoder streamed, whole frames"),
        (12, 32, "GGUF partly streamed, text encoder streamed, whole frames"),
        (8, 16, "GGUF partly streamed from disk, text encoder streamed from disk, whole frames"),
    ],
)
def test_a_quantized_file_is_kept_as_it_is_on_every_machine(
    card: int, host: int, name: str, wan_14b: ModelShape
) -> None:
    machine = Machine((card - 1) * GIB, round(0.9 * host * GIB), (8, 9))
    video = Geometry.fit(832, 480, 81, wan_14b.grid)

    chosen = plan(wan_14b, video, machine)

    assert chosen.fits(machine)
    assert chosen.name == name
    assert chosen.device_peak < priced(replace(wan_14b, files=()), video, machine, Layout()).device_peak
    made = choices(chosen, wan_14b, machine)["transformer weights"]
    assert made.choice == "GGUF"
    assert made.reason == "wan-Q4_K_M.gguf (Q4_K, Q6_K, float32): quantized already, and kept as it is"


def test_a_plain_file_is_planned_for_as_other_weights_are(state: State, bare: Path, tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "tuned.safetensors", state, torch.float16)
    shape, machine = shape_here(bare, [named(file)]), Machine(8 * GIB, 64 * GIB, (8, 9))
    video = Geometry.fit(96, 64, 9, shape.grid)

    assert shape.files == (FileShape("tuned.safetensors", ("float16",)),)
    assert plan(shape, video, machine) == plan(replace(shape, files=()), video, machine)
    made = choices(plan(shape, video, machine), shape, machine)["transformer weights"]
    assert (made.choice, made.reason) == ("bf16", "from tuned.safetensors (float16); as published, and exact")


def test_a_file_of_something_else_has_no_plan(bare: Path, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "flux.safetensors", {"double_blocks.0.weight": torch.ones(8, 8)}, torch.half)

    with pytest.raises(UnsupportedModelError, match=r"flux\.safetensors holds no weights of a Wan transformer"):
        shape_here(bare, [named(path)])


def test_a_wrong_file_is_refused_before_anything_is_read(experts: Path, mixed: Path, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "wrong.safetensors", {"blocks.0.weight": torch.ones(8, 8)}, torch.half)

    with pytest.raises(UnsupportedModelError, match="holds no weights"):
        load_pipeline(
            experts,
            "cpu",
            lambda *_: pytest.fail("nothing should be read"),
            files=[named(mixed), replace(named(path), part="transformer_2")],
        )


def test_a_file_of_another_depth_has_no_plan(wan_14b: ModelShape) -> None:
    with pytest.raises(UnsupportedModelError, match=r"wan-Q4_K_M\.gguf has 40 blocks, the model 30"):
        replace(wan_14b, transformer=replace(wan_14b.transformer, num_layers=30)).with_files(wan_14b.files)


# two experts


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two wide transformers in one pipeline."""
    folder = a14b_folder(tmp_path_factory.mktemp("experts") / "weights")
    for seed, part in enumerate(PARTS):
        for file in (folder / part).iterdir():
            file.unlink()
        wide_transformer(seed).save_pretrained(folder / part)
    return folder


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
    transformer = shape_here(experts).transformer

    shape = shape_here(experts, [named(mixed)])

    assert shape.kept[1] == transformer.in_bf16
    assert _whole_bytes(shape, Precision.GGUF) == sum(shape.kept[0].blocks) + shape.kept[0].others + (
        transformer.parameters * 2
    )
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
        load_pipeline(bare, "cpu", files=[replace(named(mixed), part="transformer_2")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match="model_index"):
        load_pipeline(tmp_path / "empty", "cpu", files=[named(mixed)])


def test_a_config_is_still_the_folders(bare: Path, mixed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bare, tmp_path / "folder"))
    (folder / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"transformer/config\.json is missing"):
        load_pipeline(folder, "cpu", files=[named(mixed)])


def test_what_is_measured_is_told_to_a_process_without_torch(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["single_file", str(mixed)])
    single_file.main()
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], told["kept"]["blocks"]) == ("mixed.gguf", list(measured_blocks(mixed)))

    monkeypatch.setattr("sys.argv", ["single_file", str(tmp_path / "gone.gguf")])
    single_file.main()
    assert "gone.gguf is cut off, damaged" in json.loads(capsys.readouterr().out)


def measured_blocks(path: Path) -> Mapping[int, int] | tuple[int, ...]:
    kept = single_file.measure(path).kept
    assert kept is not None
    return kept.blocks
