"""Pipelines with LoRAs, of a model itself and of its fast variant."""

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import Fast, Lora, ModelSpec
from pipelines.core.precision import Precision
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.oom_fallback import OutOfMemoryFallback
from tests.support.models.runners import SMALL_VIDEO, small_runner, video_bytes
from tests.support.models.wan22 import small_transformer
from tests.support.video import psnr

WAN = family_of("WanPipeline")


CATALOGUE = read_catalogue()
LAYER = "blocks.1.attn1.to_q"


def lora_file(folder: Path, layout: str, size: float = 1.0) -> tuple[Path, torch.Tensor]:
    """A LoRA of rank 2 on one layer in a layout of its own, and the change of the weight it means."""
    generator = torch.Generator().manual_seed(3)
    down, up = (torch.randn(shape, generator=generator) * size for shape in ((2, 24), (24, 2)))
    alpha = torch.tensor(4.0)
    tensors, change = {
        "diffusers": (
            {f"transformer.{LAYER}.lora_A.weight": down, f"transformer.{LAYER}.lora_B.weight": up},
            up @ down,
        ),
        "original": (
            {
                "diffusion_model.blocks.1.self_attn.q.lora_down.weight": down,
                "diffusion_model.blocks.1.self_attn.q.lora_up.weight": up,
                "diffusion_model.blocks.1.self_attn.q.alpha": alpha,
            },
            2 * up @ down,
        ),
        "musubi": (
            musubi_layers() | musubi_layer("blocks_1_self_attn_q", down, up),
            2 * up @ down,
        ),
    }[layout]
    path = folder / f"{layout}.safetensors"
    save_file(tensors, path)
    return path, change


def musubi_layer(name: str, down: torch.Tensor, up: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        f"lora_unet_{name}.lora_down.weight": down,
        f"lora_unet_{name}.lora_up.weight": up,
        f"lora_unet_{name}.alpha": torch.tensor(4.0),
    }


def musubi_layers() -> dict[str, torch.Tensor]:
    """This layout names every layer of every block; these change nothing."""
    sizes = {f"{kind}_attn_{name}": (24, 24) for kind in ("self", "cross") for name in "qkvo"}
    sizes |= {"ffn_0": (24, 32), "ffn_2": (32, 24)}
    layers: dict[str, torch.Tensor] = {}
    for block, (name, (inside, outside)) in product(range(2), sizes.items()):
        layers |= musubi_layer(f"blocks_{block}_{name}", torch.zeros(2, inside), torch.zeros(outside, 2))
    return layers


@pytest.mark.parametrize("layout", ["diffusers", "original", "musubi"])
def test_a_lora_of_each_layout_is_merged(layout: str, wan21: Path, tmp_path: Path) -> None:
    _, change = lora_file(tmp_path, layout)
    plain = small_runner(wan21, tmp_path)._loaded
    expected = WanTransformer3DModel.from_pretrained(wan21, subfolder="transformer").get_parameter(f"{LAYER}.weight")

    lora = Lora(str(tmp_path), f"{layout}.safetensors", strength=0.5)
    tuned = small_runner(wan21, tmp_path, loras=(lora,))._loaded

    merged = tuned.pipe.transformer.get_parameter(f"{LAYER}.weight")
    torch.testing.assert_close(merged.float(), (expected + 0.5 * change).to(merged.dtype).float())
    others = [name for name, _ in tuned.pipe.transformer.named_parameters() if name != f"{LAYER}.weight"]
    for name in others:
        assert torch.equal(tuned.pipe.transformer.get_parameter(name), plain.pipe.transformer.get_parameter(name))
    assert tuned.fingerprint["loras"] != plain.fingerprint["loras"] == ""


def test_a_video_equals_that_of_weights_changed_by_hand(wan21: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    changes = {
        "blocks.0.diff_m": torch.randn((1, 6, 24), generator=generator),
        "patch_embedding.diff": torch.randn((24, 16, 1, 2, 2), generator=generator),
        "blocks.1.ffn.0.diff_b": torch.randn(32, generator=generator),
    }
    file, product_ = lora_file(tmp_path, "original")
    save_file(load_file(file) | {f"diffusion_model.{name}": value for name, value in changes.items()}, file)
    transformer = WanTransformer3DModel.from_pretrained(wan21, subfolder="transformer").requires_grad_(False)
    transformer.get_parameter(f"{LAYER}.weight").add_(product_, alpha=0.5)
    transformer.blocks[0].scale_shift_table.add_(changes["blocks.0.diff_m"], alpha=0.5)
    transformer.patch_embedding.weight.add_(changes["patch_embedding.diff"], alpha=0.5)
    transformer.blocks[1].ffn.net[0].proj.bias.add_(changes["blocks.1.ffn.0.diff_b"], alpha=0.5)
    by_hand = Path(shutil.copytree(wan21, tmp_path / "weights"))
    shutil.rmtree(by_hand / "transformer")
    transformer.save_pretrained(by_hand / "transformer")

    tuned = small_runner(wan21, tmp_path, loras=(Lora(str(tmp_path), file.name, strength=0.5),))

    expected = video_bytes(small_runner(by_hand, tmp_path), tmp_path / "by hand.mp4")
    assert video_bytes(tuned, tmp_path / "tuned.mp4") == expected
    assert expected != video_bytes(small_runner(wan21, tmp_path), tmp_path / "plain.mp4")


def test_a_lora_works_with_every_precision_and_placement(weights_folder: Path, tmp_path: Path) -> None:
    transformer = WAN.read_shape(weights_folder).transformer
    save_file(
        {
            "transformer.blocks.0.attn1.to_v.lora_A.weight": torch.full((1, transformer.width), 0.3),
            "transformer.blocks.0.attn1.to_v.lora_B.weight": torch.full((transformer.width, 1), 0.3),
        },
        tmp_path / "lora.safetensors",
    )
    lora = Lora(str(tmp_path), "lora.safetensors")
    exact = video_bytes(small_runner(weights_folder, tmp_path, loras=(lora,)), tmp_path / "exact.mp4")
    assert exact != video_bytes(small_runner(weights_folder, tmp_path), tmp_path / "plain.mp4")

    mapped = Layout(transformer=Residence.DISK)
    assert (
        psnr(video_bytes(small_runner(weights_folder, tmp_path, mapped, loras=(lora,)), tmp_path / "mapped.mp4"), exact)
        > 40
    )
    assert psnr(video_bytes(small_runner(weights_folder, tmp_path, mapped), tmp_path / "mapped.mp4"), exact) < 40
    for precision in (Precision.FP8, Precision.FP8_MATMUL, Precision.INT8_MATMUL, Precision.Q4):
        video_bytes(small_runner(weights_folder, tmp_path, Layout(precision), loras=(lora,)), tmp_path / "short.mp4")
        assert psnr(tmp_path / "exact.mp4", tmp_path / "short.mp4") > 20


def test_a_lora_for_both_experts_changes_each_separately(a14b: Path, tmp_path: Path) -> None:
    one, two = torch.ones(24, 1), torch.full((24, 1), 2.0)
    tensors = {}
    for part, up in (("transformer", one), ("transformer_2", two)):
        tensors[f"{part}.{LAYER}.lora_A.weight"] = torch.ones(1, 24)
        tensors[f"{part}.{LAYER}.lora_B.weight"] = up
    save_file(tensors, tmp_path / "both.safetensors")
    loras = tuple(Lora(str(tmp_path), "both.safetensors", part) for part in ("transformer", "transformer_2"))

    plain, tuned = small_runner(a14b, tmp_path)._loaded.pipe, small_runner(a14b, tmp_path, loras=loras)._loaded.pipe
    for part, change in (("transformer", 1.0), ("transformer_2", 2.0)):
        before, after = (getattr(pipe, part).get_parameter(f"{LAYER}.weight").float() for pipe in (plain, tuned))
        torch.testing.assert_close(after, before + change, rtol=0.02, atol=0.02)


def test_a_lora_for_a_missing_component_is_an_error(wan21: Path, tmp_path: Path) -> None:
    lora_file(tmp_path, "original")
    with pytest.raises(UnsupportedModelError, match="has no transformer_2"):
        small_runner(wan21, tmp_path, loras=(Lora(str(tmp_path), "original.safetensors", "transformer_2"),))


def test_a_lora_that_cannot_be_merged_is_an_error(wan21: Path, tmp_path: Path) -> None:
    save_file(musubi_layer("blocks_9_ffn_0", torch.ones(2, 24), torch.ones(32, 2)), tmp_path / "lora.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"lora\.safetensors changes blocks\.9\.ffn\.net\.0\.proj\.weight"):
        small_runner(wan21, tmp_path, loras=(Lora(str(tmp_path), "lora.safetensors"),))

    with pytest.raises(WeightsNotFoundError, match=r"No gone\.safetensors of"):
        small_runner(wan21, tmp_path, loras=(Lora(str(tmp_path), "gone.safetensors"),))


# run_fast


def test_run_fast_selects_the_distilled_model_without_guidance(a14b: Path, tmp_path: Path) -> None:
    file, _ = lora_file(tmp_path, "original", size=0.3)
    loras = tuple(Lora(str(tmp_path), file.name, part) for part in ("transformer", "transformer_2"))
    spec = ModelSpec("small", fps=16, fast=Fast(loras, flow_shift=5.0))

    fast = video_bytes(
        OutOfMemoryFallback.load(spec.variant(fast=True), a14b, "cpu", cache=tmp_path), tmp_path / "fast.mp4"
    )
    slow = video_bytes(
        OutOfMemoryFallback.load(spec.variant(fast=False), a14b, "cpu", cache=tmp_path), tmp_path / "slow.mp4"
    )

    assert fast != slow == video_bytes(small_runner(a14b, tmp_path), tmp_path / "plain.mp4")
    distilled = small_runner(a14b, tmp_path, loras=loras, flow_shift={"480p": 5.0, "720p": 5.0})
    assert fast == video_bytes(distilled, tmp_path / "distilled.mp4", replace(SMALL_VIDEO, guidance_scale=1.0))


def test_the_default_of_run_fast_is_what_activating_loads() -> None:
    entry = CATALOGUE["wan-ai-wan2-2-t2v-a14b-diffusers"]

    assert entry.variant() == entry.variant(True) != entry.variant(False)
    assert len(entry.variant().model.loras) == 2
    assert not entry.variant(False).model.loras
    assert CATALOGUE["wan-ai-wan2-1-t2v-14b-diffusers"].variant() == CATALOGUE["wan-ai-wan2-1-t2v-14b-diffusers"]


def test_a_model_without_a_distillation_ignores_run_fast() -> None:
    spec = CATALOGUE["wan-ai-wan2-1-t2v-14b-diffusers"].model

    assert spec.variant(fast=True) is spec.variant(fast=False) is spec


def test_the_small_transformers_have_the_expected_shape() -> None:
    assert small_transformer(16).get_parameter(f"{LAYER}.weight").shape == (24, 24)
