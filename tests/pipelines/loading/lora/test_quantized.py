"""LoRAs beside the quantized matrices of a GGUF file give what merging them into the restored matrices gives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor
from safetensors.torch import save_file

from pipelines.core.errors import LoraError, UnsupportedModelError
from pipelines.core.model import Lora, ModelSpec
from pipelines.core.precision import Precision
from pipelines.core.request import RequestLora
from pipelines.layers.gguf_lora import GGUFLoraLinear
from pipelines.loading.device_plan import read_model_shape
from pipelines.loading.lora.loras import Loras
from pipelines.loading.single_file import SingleFile, main
from pipelines.models.registry import family_of
from pipelines.planning.layout import Layout, Residence
from pipelines.planning.shapes import FileShape
from pipelines.runner.runner import Runner
from tests.pipelines.conftest import both_dtypes
from tests.support.models.runners import SMALL_VIDEO, video_bytes
from tests.support.models.wan_files import State, named
from tests.support.video import psnr

WAN = family_of("WanPipeline")
TRANSFORMER = WAN.part("transformer")
WIDTH = 256
STRENGTH = 0.8

# with Q4_K, Q6_K, Q8_0, F16, no quantization and outside of the blocks
LAYERS = (
    "blocks.0.attn1.to_q",
    "blocks.0.attn1.to_v",
    "blocks.1.ffn.net.2",
    "blocks.1.attn1.to_k",
    "condition_embedder.time_proj",
)
FULL = "blocks.0.attn2.to_k"

STREAMED = (Residence.STREAMED, Residence.DISK)


@pytest.fixture
def folder(tmp_path: Path, state: State) -> Path:
    """Two LoRAs, of which both change the same layers; one also adds to a whole matrix, to a bias and to a norm."""
    for seed, (name, rank) in enumerate((("x", 3), ("y", 2))):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * 0.05

        tensors = {}
        for layer in LAYERS:
            outside, inside = state[f"{layer}.weight"].shape
            tensors |= {f"{layer}.lora_A.weight": draw(rank, inside), f"{layer}.lora_B.weight": draw(outside, rank)}
        if name == "y":
            tensors |= {
                f"{FULL}.diff": draw(WIDTH, WIDTH),
                f"{FULL}.diff_b": draw(WIDTH),
                "blocks.1.norm3.diff": draw(WIDTH),
            }
        metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 2 * rank})}
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata)
    return tmp_path


def own(folder: Path, *names: str) -> tuple[Lora, ...]:
    return tuple(Lora(str(folder), f"{name}.safetensors", strength=STRENGTH) for name in names)


def load(mixed: Path, bare: Path, cache: Path, loras: tuple[Lora, ...] = (), layout: Layout | None = None) -> Runner:
    spec = ModelSpec("mixed", fps=16, files=(named(mixed),), loras=loras)
    return Runner.load(spec, bare, "cpu", layout=layout, cache=cache)


@torch.no_grad()
def output_of(transformer: Any, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(shape, generator=generator) for shape in ((1, 16, 2, 8, 8), (1, 7, 32)))
    return transformer(latents.to(dtype), torch.tensor([500.0]), text.to(dtype), return_dict=False)[0].double()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@both_dtypes
def test_it_equals_merging_into_the_restored_weights(
    processor: str, mixed: Path, bare: Path, wide: Path, folder: Path
) -> None:
    loras = Loras([(folder / f"{name}.safetensors", STRENGTH) for name in "xy"], WAN, "transformer")
    plain = load(mixed, bare, folder)._loaded.pipe.transformer
    by_hand = WanTransformer3DModel.from_pretrained(wide, subfolder="transformer").requires_grad_(False)
    for name, parameter in plain.named_parameters():
        is_quantized = isinstance(parameter, GGUFParameter)
        weight = dequantize_gguf_tensor(parameter) if is_quantized else parameter
        by_hand.get_parameter(name).copy_(loras.merge(name, weight.float()))

    runner = load(mixed, bare, folder, own(folder, "x", "y"))

    expected = output_of(by_hand, torch.float32)
    before, after = (output_of(model, getattr(torch, processor)) for model in (plain, runner._loaded.pipe.transformer))
    assert distance(after, expected) < (1e-5 if processor == "float32" else 0.02)
    assert distance(before, expected) > 0.05
    layer = runner._loaded.pipe.transformer.get_submodule("blocks.0.attn1.to_q")
    assert isinstance(layer, GGUFLoraLinear)
    assert isinstance(layer.weight, GGUFParameter)
    assert layer.lora_A.shape == (5, WIDTH)
    assert layer.lora_A.dtype is getattr(torch, processor)
    # a file's plain matrices have no layer of their own
    assert type(runner._loaded.pipe.transformer.get_submodule("blocks.1.attn1.to_k")) is torch.nn.Linear


@pytest.mark.parametrize("where", STREAMED)
def test_factors_are_streamed_with_their_block(where: Residence, mixed: Path, bare: Path, folder: Path) -> None:
    expected = video_bytes(load(mixed, bare, folder, own(folder, "x", "y")), folder / "resident.mp4")
    layout = Layout(Precision.GGUF, where, resident_blocks=1)
    streamed = load(mixed, bare, folder, own(folder, "x", "y"), layout)
    for _ in range(2):
        made = video_bytes(streamed, folder / "streamed.mp4")
        # a CPU computes on the mapped file itself, whose alignment may change the rounding
        assert made == expected or (where is Residence.DISK and psnr(made, expected) > 40)


def test_the_memory_model_counts_the_factors(
    mixed: Path, bare: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ModelSpec("mixed", fps=16, files=(named(mixed),), loras=own(folder, "x", "y"))
    runner = Runner.load(spec, bare, "cpu", cache=folder)
    parameters = dict(runner._loaded.pipe.transformer.named_parameters())
    sizes = {name: parameter.numel() * 2 for name, parameter in parameters.items() if "lora_" in name}

    (file,) = read_model_shape(spec, bare).files
    plain = SingleFile(mixed, TRANSFORMER).measure().quantized

    assert file.quantized is not None
    assert plain is not None
    added = [after - before for after, before in zip(file.quantized.blocks, plain.blocks, strict=True)]
    assert added == [
        sum(size for name, size in sizes.items() if name.startswith(f"blocks.{index}.")) for index in (0, 1)
    ]
    assert file.quantized.converted - plain.converted == sum(added)
    assert file.quantized.others - plain.others == sum(sizes.values()) - sum(added)
    assert all(added)

    loras = [f"--lora=transformer={folder / f'{name}.safetensors'}" for name in "xy"]
    monkeypatch.setattr("sys.argv", ["single_file", "WanPipeline", f"transformer={mixed}", *loras])
    main()
    (printed,) = json.loads(capsys.readouterr().out)
    assert FileShape(printed["name"], tuple(printed["formats"])) == replace(file, quantized=None)
    assert printed["quantized"]["blocks"] == list(file.quantized.blocks)


def test_the_fingerprint_names_the_loras(mixed: Path, bare: Path, folder: Path) -> None:
    facts = [
        load(mixed, bare, folder, own(folder, *names)).fingerprint["loras"] for names in ("", "x", "y", "xy", "yx")
    ]
    assert len(set(facts)) == 5


def test_a_lora_that_does_not_fit_is_refused(mixed: Path, bare: Path, folder: Path) -> None:
    save_file({"blocks.0.self_attn.q.diff": torch.ones(WIDTH, 2)}, folder / "x.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"x\.safetensors is for a model of another size"):
        load(mixed, bare, folder, own(folder, "x"))


@both_dtypes
@pytest.mark.parametrize("layout", [None, *(Layout(Precision.GGUF, where, resident_blocks=1) for where in STREAMED)])
def test_loras_of_requests_equal_the_models_own_and_leave_nothing(
    layout: Layout | None, mixed: Path, bare: Path, folder: Path
) -> None:
    def loaded(*names: str) -> Runner:
        spec = ModelSpec("mixed", fps=16, files=(named(mixed),), loras=own(folder, *names))
        return Runner.load(spec, bare, "cpu", layout=layout, cache=folder, loras_dir=folder)

    def requested(runner: Runner, *names: str) -> bytes:
        loras = tuple(RequestLora(name, STRENGTH) for name in names)
        return video_bytes(runner, folder / "video.mp4", replace(SMALL_VIDEO, loras=loras))

    runner, with_x = loaded(), loaded("x")
    layers = dict(runner._loaded.pipe.transformer.named_modules())
    plain, x, both = requested(runner), requested(with_x), requested(with_x, "y")
    assert len({plain, x, both}) == 3
    assert [requested(runner, *names) for names in ("x", "xy", "", "x", "y", "xy")] == [
        *(x, both, plain, x),
        requested(loaded("y")),
        both,
    ]
    assert requested(runner) == plain
    assert dict(runner._loaded.pipe.transformer.named_modules()) == layers
    assert requested(with_x) == x


def test_what_requests_put_beside_quantized_matrices_is_bounded(
    mixed: Path, bare: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec("mixed", fps=16, files=(named(mixed),))
    runner = Runner.load(spec, bare, "cpu", cache=folder, loras_dir=folder)
    params = replace(SMALL_VIDEO, loras=(RequestLora("x", STRENGTH),))
    with_x = video_bytes(runner, folder / "video.mp4", params)
    plain = video_bytes(runner, folder / "video.mp4")
    beside = runner._loaded.loras._parts[0]
    factors = Loras([(folder / "x.safetensors", 1.0)], WAN, "transformer")
    quantized = [n for n, t in beside.loaded.source.headers() if beside.loaded.weight_format.stays_quantized(n, t)]
    shapes = {name: tensor.quant_shape for name, tensor in beside.loaded.source.headers() if name in quantized}
    size = sum(factors.rank(name) * sum(shapes[name]) for name in quantized)
    size *= beside.loaded.weight_format.dtype.itemsize

    monkeypatch.setattr("pipelines.loading.request_loras.MAX_BESIDE_BYTES", size - 1)
    with pytest.raises(LoraError, match=r"beside the quantized weights of .*\. Use fewer LoRAs"):
        video_bytes(runner, folder / "video.mp4", params)
    assert video_bytes(runner, folder / "video.mp4") == plain
    monkeypatch.setattr("pipelines.loading.request_loras.MAX_BESIDE_BYTES", size)
    assert video_bytes(runner, folder / "video.mp4", params) == with_x
