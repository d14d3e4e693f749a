"""Plans for a transformer from a single file, in the format of the file."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, GGUFParameter, dequantize_gguf_tensor
from gguf import GGMLQuantizationType as Type

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.precision import Precision
from pipelines.loading.device_plan import read_model_shape
from pipelines.loading.modules import WeightSource, load_weights, skeleton
from pipelines.loading.single_file import DEQUANTIZING_BYTES, SingleFile, main
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.explain import choices
from pipelines.planning.layout import GIB, Layout, Machine, Residence
from pipelines.planning.memory_model import transformer_bytes, transformer_device_bytes
from pipelines.planning.planner import evaluate, plan
from pipelines.planning.shapes import FileShape, ModelShape
from tests.support.models.trace import PeakBytes
from tests.support.models.wan_files import State, by_original_names, named, write_safetensors

WAN = family_of("WanPipeline")
TRANSFORMER = WAN.part("transformer")


def test_the_measured_sizes_are_those_in_memory(mixed: Path, bare: Path) -> None:
    module = skeleton(WanTransformer3DModel, bare / "transformer")
    source = WeightSource(mixed, TRANSFORMER)
    weight_format = WeightFormat(module, Precision.GGUF, torch.bfloat16, named=dict(source.headers()))
    load_weights(module, source, weight_format.convert)
    sizes = {name: parameter.nbytes for name, parameter in module.named_parameters()}

    measured = SingleFile(mixed, TRANSFORMER).measure()

    stored = measured.quantized
    assert stored is not None
    assert (measured.name, set(measured.formats)) == (
        "mixed.gguf",
        {"Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "bfloat16", "float16", "float32"},
    )
    for index, size in enumerate(stored.blocks):
        assert size == sum(size for name, size in sizes.items() if name.startswith(f"blocks.{index}."))
    assert stored.blocks[0] != stored.blocks[1]
    assert sum(stored.blocks) + stored.others == sum(sizes.values())
    plain = (
        parameter.nbytes
        for name, parameter in module.named_parameters()
        if name.startswith("blocks.") and not isinstance(parameter, GGUFParameter)
    )
    assert stored.converted == sum(plain)


@pytest.mark.parametrize("form", [form for form in SUPPORTED_GGUF_QUANT_TYPES if form is not Type.BF16])
def test_dequantizing_a_matrix_needs_the_planned_memory(form: Type) -> None:
    count, size = gguf.GGML_QUANT_SIZES[form]
    weight = GGUFParameter(torch.zeros(512, 512 // count * size, dtype=torch.uint8), quant_type=form)
    with torch.no_grad(), PeakBytes([weight]) as traced:
        dequantize_gguf_tensor(weight).to(torch.bfloat16)

    assert DEQUANTIZING_BYTES[form.name] * 512**2 == pytest.approx(traced.peak, rel=0.1)


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
    return WAN.shape(ENTRY.model.shape).with_files((SingleFile(path, TRANSFORMER).measure(),))


def by_original_name(name: str) -> str:
    return next(iter(by_original_names({name: torch.empty(0)})))


def test_a_plan_uses_the_sizes_in_the_file(wan_14b: ModelShape) -> None:
    plain = replace(wan_14b, files=())
    matrices = wan_14b.transformer.block_matrix_parameters
    down = wan_14b.transformer.width * wan_14b.transformer.ffn_dim
    block = (matrices - down) * 144 / 256 + down * 210 / 256

    (stored,) = wan_14b.quantized
    assert stored.blocks[0] == pytest.approx(block, rel=0.002)
    assert transformer_bytes(wan_14b, Precision.GGUF) == pytest.approx(40 * block + stored.others, rel=0.002)
    assert stored.others == pytest.approx(transformer_bytes(plain, Precision.BF16) - 40 * 2 * matrices, rel=0.2)
    resident, streamed = (
        transformer_device_bytes(wan_14b, Layout(Precision.GGUF, residence, resident_blocks=blocks))
        for residence, blocks in ((Residence.RESIDENT, 0), (Residence.STREAMED, 30))
    )
    assert resident[0] == transformer_bytes(wan_14b, Precision.GGUF)
    assert streamed == (30 * stored.blocks[0], 32 * stored.blocks[0] + stored.others)


@pytest.mark.parametrize(
    ("card", "host", "name"),
    [
        (24, 32, "GGUF resident, fp32 residual stream, text encoder streamed, whole frames in fp32"),
        (12, 32, "GGUF partly streamed, fp32 residual stream, text encoder streamed, whole frames in fp32"),
        (
            8,
            16,
            "GGUF partly streamed, fp32 residual stream, slices of 4096 tokens, "
            "text encoder streamed from disk, tiles of 512 pixels",
        ),
    ],
)
def test_a_quantized_file_keeps_its_format_on_every_machine(
    card: int, host: int, name: str, wan_14b: ModelShape
) -> None:
    machine = Machine((card - 1) * GIB, round(0.9 * host * GIB), (8, 9))
    video = Geometry.fit(832, 480, 81, wan_14b.grid)

    chosen = plan(wan_14b, video, machine)

    assert chosen.fits(machine)
    assert chosen.name == name
    assert chosen.device_peak < evaluate(replace(wan_14b, files=()), video, machine, Layout()).device_peak
    made = choices(chosen, wan_14b, machine)["transformer weights"]
    assert made.choice == "GGUF"
    assert made.reason == "wan-Q4_K_M.gguf (Q4_K, Q6_K, float32): already quantized, used as it is"


def test_a_plain_file_is_planned_like_other_weights(state: State, bare: Path, tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "tuned.safetensors", state, torch.float16)
    shape, machine = (
        read_model_shape(ModelSpec("wide", fps=16, files=(named(file),)), bare),
        Machine(8 * GIB, 64 * GIB, (8, 9)),
    )
    video = Geometry.fit(96, 64, 9, shape.grid)

    assert shape.files == (FileShape("tuned.safetensors", ("float16",)),)
    assert plan(shape, video, machine) == plan(replace(shape, files=()), video, machine)
    made = choices(plan(shape, video, machine), shape, machine)["transformer weights"]
    assert (made.choice, made.reason) == ("bf16", "from tuned.safetensors (float16); exact, as published")


def test_a_file_of_another_architecture_is_an_error(bare: Path, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "flux.safetensors", {"double_blocks.0.weight": torch.ones(8, 8)}, torch.half)

    with pytest.raises(UnsupportedModelError, match=r"flux\.safetensors has no weights of a Wan transformer"):
        read_model_shape(ModelSpec("wide", fps=16, files=(named(path),)), bare)


def test_a_file_with_another_number_of_blocks_is_an_error(wan_14b: ModelShape) -> None:
    with pytest.raises(UnsupportedModelError, match=r"wan-Q4_K_M\.gguf has 40 blocks, but the model has 30"):
        replace(wan_14b, transformer=replace(wan_14b.transformer, num_layers=30)).with_files(wan_14b.files)


def test_sizes_are_printed_for_a_process_without_torch(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["single_file", "WanPipeline", f"transformer={mixed}"])
    main()
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["name"], printed["quantized"]["blocks"]) == ("mixed.gguf", list(measured_blocks(mixed)))

    monkeypatch.setattr("sys.argv", ["single_file", "WanPipeline", f"transformer={tmp_path / 'gone.gguf'}"])
    main()
    assert "gone.gguf is truncated, damaged" in json.loads(capsys.readouterr().out)


def measured_blocks(path: Path) -> Mapping[int, int] | tuple[int, ...]:
    stored = SingleFile(path, TRANSFORMER).measure().quantized
    assert stored is not None
    return stored.blocks
