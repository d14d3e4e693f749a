"""One change in every layout of LoRA files is merged as W + s · alpha / r · B · A, computed by hand in fp64."""

import json
from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from pipelines.models.registry import family_of
from tests.pipelines.loading.lora.conftest import Merge, State
from tests.support.models.wan_files import original

RANKS = {"blocks.0.attn1.to_q": 3, "blocks.0.attn2.to_out.0": 2, "blocks.1.ffn.net.0.proj": 4, "proj_out": 30}
ALPHAS = dict.fromkeys(RANKS, 5.0) | {"blocks.0.attn1.to_q": 1.5}
STRENGTH = -0.7

Name = Callable[[str], str]


def factors(transformer: WanTransformer3DModel, seed: int = 1) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A first and a second factor for each layer."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {layer: transformer.get_submodule(layer).weight.shape for layer in RANKS}
    return {
        layer: tuple(
            torch.randn(shape, generator=generator) for shape in ((RANKS[layer], inside), (outside, RANKS[layer]))
        )
        for layer, (outside, inside) in sizes.items()
    }


def dotted(layer: str) -> str:
    return original(f"{layer}.weight").removesuffix(".weight")


def flat(layer: str) -> str:
    return dotted(layer).replace(".", "_")


def same(layer: str) -> str:
    return layer


def written(transformer: WanTransformer3DModel, name: Name, down: str, up: str, alpha: str | None) -> State:
    tensors = {}
    for layer, (first, second) in factors(transformer).items():
        tensors |= {f"{name(layer)}.{down}": first, f"{name(layer)}.{up}": second}
        if alpha is not None:
            tensors[f"{name(layer)}.{alpha}"] = torch.tensor(ALPHAS[layer])
    return tensors


PEFT = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
LAYOUTS: dict[str, tuple[str, Name, str, str]] = {
    "diffusers": ("transformer.", same, *PEFT),
    "PEFT": ("base_model.model.", same, *PEFT),
    "PEFT on the original": ("base_model.model.", dotted, *PEFT),
    "PEFT within ComfyUI's prefix": ("diffusion_model.", dotted, *PEFT),
    "ComfyUI": ("diffusion_model.", dotted, *KOHYA),
    "a whole checkpoint's prefix": ("model.diffusion_model.", dotted, *KOHYA),
    "musubi-tuner": ("lora_unet_", flat, *KOHYA),
    "VideoX-Fun": ("lora_unet__", flat, *KOHYA),
    "musubi-tuner with PEFT's words": ("lora_unet_", flat, *PEFT),
    "DiffSynth": ("", dotted, "lora_A.default.weight", "lora_B.default.weight"),
    "DiffSynth with its prefix": ("pipe.dit.", dotted, "lora_A.default.weight", "lora_B.default.weight"),
    "bare original names": ("", dotted, *KOHYA),
    "bare names of diffusers": ("", same, *PEFT),
    "an older diffusers": ("transformer.", same, "lora.down.weight", "lora.up.weight"),
}


def by_hand(
    transformer: WanTransformer3DModel, scales: dict[str, float], strength: float = STRENGTH, seed: int = 1
) -> State:
    """The merged weights in fp64."""
    merged = {}
    for layer, (down, up) in factors(transformer, seed).items():
        weight = transformer.get_submodule(layer).weight.double()
        merged[f"{layer}.weight"] = weight + strength * scales[layer] * (up.double() @ down.double())
    return merged


def assert_equal(merged: State, expected: State) -> None:
    assert merged.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name].double(), tensor, rtol=1e-6, atol=1e-6 * float(tensor.abs().max()))


@pytest.mark.parametrize("has_alphas", [True, False], ids=["with alphas", "without"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layer_has_its_own_rank_and_alpha(
    layout: str, has_alphas: bool, transformer: WanTransformer3DModel, merge: Merge
) -> None:
    prefix, name, down, up = LAYOUTS[layout]
    tensors = written(transformer, lambda layer: prefix + name(layer), down, up, "alpha" if has_alphas else None)
    scales = {layer: ALPHAS[layer] / rank if has_alphas else 1.0 for layer, rank in RANKS.items()}

    assert_equal(merge(tensors, strength=STRENGTH), by_hand(transformer, scales))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_factors_have_any_float_format(dtype: torch.dtype, transformer: WanTransformer3DModel, merge: Merge) -> None:
    tensors = written(transformer, lambda layer: f"diffusion_model.{dotted(layer)}", *KOHYA, None)
    expected = {}
    for layer in RANKS:
        down, up = (tensors[f"diffusion_model.{dotted(layer)}.{name}"].to(dtype).double() for name in KOHYA)
        expected[f"{layer}.weight"] = transformer.get_submodule(layer).weight.double() + up @ down

    assert_equal(merge({name: tensor.to(dtype) for name, tensor in tensors.items()}), expected)


METADATA: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "alpha": ({"r": 3, "lora_alpha": 6}, {layer: 6 / rank for layer, rank in RANKS.items()}),
    "rank_pattern": (
        {"r": 3, "lora_alpha": 6, "rank_pattern": {"to_out.0": 2, "net.0.proj": 4, "proj_out": 1}},
        {layer: 6 / rank for layer, rank in RANKS.items()},
    ),
    "use_rslora": (
        {"r": 3, "lora_alpha": 6, "use_rslora": True},
        {layer: 6 / sqrt(rank) for layer, rank in RANKS.items()},
    ),
    "alpha_pattern by the end of a name": (
        {"r": 3, "lora_alpha": 6, "alpha_pattern": {"to_out.0": 8, "proj": 2.5}},
        {
            layer: {"blocks.0.attn2.to_out.0": 8, "blocks.1.ffn.net.0.proj": 2.5}.get(layer, 6) / rank
            for layer, rank in RANKS.items()
        },
    ),
    "alpha_pattern by a whole name": (
        {"lora_alpha": 6, "alpha_pattern": {"^blocks.0.attn1.to_q": 8, "^to_out.0": 9, "q": 10}},
        {layer: (8 if layer == "blocks.0.attn1.to_q" else 6) / rank for layer, rank in RANKS.items()},
    ),
    "alpha_pattern with wildcards": (
        {"lora_alpha": 6, "use_rslora": True, "alpha_pattern": {r"blocks\.\d+\.attn.*": 8, "to_q|proj_out": 2}},
        {
            layer: (8 if "attn" in layer else 2 if layer == "proj_out" else 6) / sqrt(rank)
            for layer, rank in RANKS.items()
        },
    ),
    "no alpha": ({"r": 3}, dict.fromkeys(RANKS, 1.0)),
}


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("case", METADATA)
def test_metadata_give_each_layer_its_alpha(
    case: str, prefix: str, transformer: WanTransformer3DModel, merge: Merge
) -> None:
    fields, scales = METADATA[case]
    metadata = {"lora_adapter_metadata": json.dumps({prefix + name: value for name, value in fields.items()})}
    tensors = written(transformer, lambda layer: f"transformer.{layer}", *PEFT, None)

    assert_equal(merge(tensors, metadata, STRENGTH), by_hand(transformer, scales))


def test_a_file_for_two_experts_has_a_rank_and_an_alpha_for_each(
    transformer: WanTransformer3DModel, merge: Merge
) -> None:
    tensors = {}
    for seed, part in ((1, "transformer"), (2, "transformer_2")):
        for layer, (down, up) in factors(transformer, seed).items():
            tensors |= {f"{part}.{layer}.lora_A.weight": down, f"{part}.{layer}.lora_B.weight": up}
    fields = {"transformer.lora_alpha": 6, "transformer_2.lora_alpha": 3, "transformer_2.use_rslora": True}
    metadata = {"lora_adapter_metadata": json.dumps(fields)}

    first = merge(tensors, metadata)
    second = merge(tensors, metadata, part="transformer_2")

    assert_equal(first, by_hand(transformer, {layer: 6 / rank for layer, rank in RANKS.items()}, 1.0))
    assert_equal(second, by_hand(transformer, {layer: 3 / sqrt(rank) for layer, rank in RANKS.items()}, 1.0, seed=2))


def test_a_file_for_one_expert_may_be_used_for_the_other(transformer: WanTransformer3DModel, merge: Merge) -> None:
    tensors = written(transformer, lambda layer: f"transformer.{layer}", *PEFT, None)
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 6})}
    expected = by_hand(transformer, {layer: 6 / rank for layer, rank in RANKS.items()}, 1.0)

    assert_equal(merge(tensors, metadata, part="transformer_2"), expected)


ADDITIONS = {
    "blocks.0.self_attn.q.diff": "blocks.0.attn1.to_q.weight",
    "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
    "blocks.1.norm3.diff": "blocks.1.norm2.weight",
    "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
    "blocks.1.norm3.w_norm": "blocks.1.norm2.weight",
    "blocks.1.norm3.b_norm": "blocks.1.norm2.bias",
    "blocks.1.diff_m": "blocks.1.scale_shift_table",
    "blocks.1.modulation.diff": "blocks.1.scale_shift_table",
    "head.diff_m": "scale_shift_table",
    "head.head.diff": "proj_out.weight",
    "patch_embedding.diff": "patch_embedding.weight",
    "patch_embedding.diff_b": "patch_embedding.bias",
    "time_projection.1.diff": "condition_embedder.time_proj.weight",
    "text_embedding.2.diff_b": "condition_embedder.text_embedder.linear_2.bias",
}


@pytest.mark.parametrize("key", ADDITIONS)
def test_additions_are_added_as_they_are(key: str, transformer: WanTransformer3DModel, merge: Merge) -> None:
    parameter = transformer.get_parameter(ADDITIONS[key])
    value = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    expected = {ADDITIONS[key]: parameter.double() + STRENGTH * value.double()}
    layer, _, ending = key.rpartition(".")

    assert_equal(merge({f"diffusion_model.{key}": value}, strength=STRENGTH), expected)
    assert_equal(merge({f"lora_unet_{layer.replace('.', '_')}.{ending}": value}, strength=STRENGTH), expected)


def test_factors_and_additions_to_the_same_weight_are_summed(transformer: WanTransformer3DModel, merge: Merge) -> None:
    layer = "blocks.0.attn1.to_q"
    down, up = factors(transformer)[layer]
    weight, bias = (transformer.get_parameter(f"{layer}.{name}") for name in ("weight", "bias"))
    tensors = {
        f"{layer}.lora_down.weight": down,
        f"{layer}.lora_up.weight": up,
        # musubi-tuner's converter writes whole numbers
        f"{layer}.alpha": torch.tensor(6),
        f"{layer}.diff": torch.full_like(weight, 0.5),
        f"{layer}.diff_b": torch.full_like(bias, 0.25),
    }
    expected = {
        f"{layer}.weight": weight.double() + 0.5 + 2 * (up.double() @ down.double()),
        f"{layer}.bias": bias.double() + 0.25,
    }

    assert_equal(merge(tensors), expected)


def test_the_bias_of_the_second_factor_has_its_scale(transformer: WanTransformer3DModel, merge: Merge) -> None:
    layer = "blocks.0.attn1.to_q"
    down, up = factors(transformer)[layer]
    weight, bias = (transformer.get_parameter(f"{layer}.{name}") for name in ("weight", "bias"))
    added = torch.randn(24, generator=torch.Generator().manual_seed(2))
    tensors = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, f"{layer}.lora_B.bias": added}
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 6})}

    merged = merge(tensors, metadata, STRENGTH)

    # delta W and delta b of PEFT's linear layer have the same scaling
    assert_equal(
        merged,
        {
            f"{layer}.weight": weight.double() + STRENGTH * 2 * (up.double() @ down.double()),
            f"{layer}.bias": bias.double() + STRENGTH * 2 * added.double(),
        },
    )


def test_a_convolution_has_factors(transformer: WanTransformer3DModel, merge: Merge) -> None:
    weight = transformer.patch_embedding.weight
    generator = torch.Generator().manual_seed(1)
    down = torch.randn((2, *weight.shape[1:]), generator=generator)
    up = torch.randn((len(weight), 2, 1, 1, 1), generator=generator)
    change = torch.einsum("or,r...->o...", up[:, :, 0, 0, 0].double(), down.double())
    tensors = {"patch_embedding.lora_down.weight": down, "patch_embedding.lora_up.weight": up}

    assert_equal(merge(tensors), {"patch_embedding.weight": weight.double() + change})


def test_keys_of_a_text_encoder_are_left_aside(
    transformer: WanTransformer3DModel, merge: Merge, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = written(transformer, lambda layer: f"lora_unet_{flat(layer)}", *KOHYA, "alpha")
    extra = {f"lora_te{number}_layer.lora_down.weight": torch.ones(2, 2) for number in ("", "1", "2", "3")}

    with caplog.at_level("WARNING"):
        merged = merge(tensors | extra)

    assert_equal(merged, by_hand(transformer, {layer: ALPHAS[layer] / rank for layer, rank in RANKS.items()}, 1.0))
    (record,) = caplog.records
    assert "4 tensors for a text encoder are left aside: lora_te1_layer" in record.getMessage()


def test_every_parameter_has_the_name_that_diffusers_gives_it(transformer: WanTransformer3DModel) -> None:
    layout = family_of("WanPipeline").part("transformer").lora
    assert layout is not None
    for name in transformer.state_dict():
        ours = convert_wan_transformer_to_diffusers({original(name): torch.zeros(1)})
        assert list(ours) == [name]
        layer = original(name).removesuffix(".weight").removesuffix(".bias")
        expected = name.removesuffix(".weight").removesuffix(".bias")
        assert {layout.layer(layer), layout.layer(layer.replace(".", "_")), layout.layer(expected)} == {expected}
