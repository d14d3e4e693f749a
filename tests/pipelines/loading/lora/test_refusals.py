"""Whatever is not a LoRA that can be merged is refused, with a message that names the file and the keys."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from pipelines.core.errors import UnsupportedModelError
from pipelines.loading.lora import file as lora_file
from pipelines.loading.lora.loras import Loras
from pipelines.models.registry import family_of
from tests.pipelines.loading.lora.conftest import Merge, State

Q = "diffusion_model.blocks.0.self_attn.q"
FLAT = "lora_unet_blocks_0_self_attn_q"


def pair(layer: str = Q, rank: int = 2, inside: int = 24, outside: int = 24) -> State:
    return {f"{layer}.lora_down.weight": torch.ones(rank, inside), f"{layer}.lora_up.weight": torch.ones(outside, rank)}


def bad(value: float) -> torch.Tensor:
    up = torch.ones(24, 2)
    up[3, 1] = value
    return up


REFUSED: dict[str, tuple[State, str]] = {
    # other adapters
    "DoRA": (
        {**pair(), f"{Q}.dora_scale": torch.ones(24, 1)},
        rf"is a DoRA, which is not supported: it has {Q}\.dora_scale\.$",
    ),
    "PEFT's DoRA": ({**pair(), f"{Q}.lora_magnitude_vector": torch.ones(24)}, "is a DoRA.*lora_magnitude_vector"),
    "LoKr": (
        {f"{FLAT}.lokr_w1": torch.ones(2, 2), f"{FLAT}.lokr_w2": torch.ones(12, 12), f"{FLAT}.alpha": torch.ones(())},
        rf"is a LoKr, which is not supported: it has {FLAT}\.lokr_w1, {FLAT}\.lokr_w2\.$",
    ),
    "LoHa": (
        {f"{FLAT}.hada_{name}": torch.ones(2, 2) for name in ("w1_a", "w1_b", "w2_a", "w2_b")},
        rf"is a LoHa.*: it has {FLAT}\.hada_w1_a, .* and 1 other\.$",
    ),
    "GLoRA": (
        {f"{FLAT}.{name}.weight": torch.ones(2, 2) for name in ("a1", "a2", "b1", "b2")},
        r"is a GLoRA.*a1\.weight",
    ),
    "OFT": ({f"{FLAT}.oft_blocks": torch.ones(2, 2, 2)}, r"is a OFT.*oft_blocks"),
    "BOFT": ({"transformer.blocks.0.attn1.to_q.boft_R": torch.ones(2, 2, 2)}, r"is a BOFT.*boft_R"),
    "three factors": ({**pair(), f"{Q}.lora_mid.weight": torch.ones(2, 2)}, r"third factor.*lora_mid\.weight"),
    # other models
    "an image model": (
        pair("diffusion_model.blocks.0.cross_attn.k_img") | pair(),
        r"model that takes an image: it changes blocks\.0\.attn2\.add_k_proj\.weight, which this model does not have",
    ),
    "an image embedding": (
        pair()
        | {
            "lora_unet_img_emb_proj_1.lora_down.weight": torch.ones(1, 8),
            "lora_unet_img_emb_proj_1.lora_up.weight": torch.ones(8, 1),
        },
        r"model that takes an image: it changes condition_embedder\.image_embedder\.ff\.net\.0\.proj\.weight",
    ),
    "an image norm of diffusers": (
        {"transformer.blocks.1.attn2.norm_added_k.diff": torch.ones(24)},
        "model that takes an image",
    ),
    "more blocks": (pair("blocks.2.ffn.0"), r"changes blocks\.2\.ffn\.net\.0\.proj\.weight, which this model does not"),
    "another layer": (
        pair("transformer.single_blocks.0.attn.to_q"),
        "not a LoRA file that can be merged: it has transformer.si",
    ),
    "another size": (
        pair(inside=48),
        r"another size: the factors of .*q\.lora_up\.weight are \[2, 48\] and \[24, 2\], .* \[24, 24\]",
    ),
    "factors that do not fit": (
        {f"{Q}.lora_down.weight": torch.ones(2, 24), f"{Q}.lora_up.weight": torch.ones(24, 3)},
        "another size",
    ),
    "an addition of another size": ({f"{Q}.diff": torch.ones(24, 25)}, r"another size: .*q\.diff is \[24, 25\]"),
    "a bias of another size": ({f"{Q}.diff_b": torch.ones(1)}, r"another size: .*q\.diff_b is \[1\]"),
    "factors of a norm": (pair("blocks.0.norm3"), "another size: the factors of blocks.0.norm3"),
    "a modulation that broadcasts": (
        {"head.diff_m": torch.ones(1, 1, 24)},
        r"another size: head\.diff_m is \[1, 1, 24\]",
    ),
    # unknown and missing keys
    "weights": (
        {"blocks.0.self_attn.q.weight": torch.ones(24, 24)},
        r"can be merged: it has blocks\.0\.self_attn\.q\.weight\.$",
    ),
    "a key too many": ({**pair(), f"{Q}.rescale": torch.ones(1)}, rf"can be merged: it has {Q}\.rescale\."),
    "a long key": (pair("model." * 60 + Q), r"can be merged: it has (model\.){50}, "),
    "no second factor": ({f"{Q}.lora_down.weight": torch.ones(2, 24)}, "but not the second factor of that layer"),
    "no first factor": ({f"{Q}.lora_up.weight": torch.ones(24, 2)}, "but not the first factor of that layer"),
    "an alpha alone": (
        {**pair("blocks.1.ffn.0", 2, 24, 32), f"{Q}.alpha": torch.tensor(1.0)},
        rf"has {Q}\.alpha, but not the",
    ),
    "the bias of a factor alone": ({f"{Q}.lora_B.bias": torch.ones(24)}, "but not the first factor and second factor"),
    "the same layer twice": (
        pair() | pair(FLAT),
        rf"changes blocks\.0\.attn1\.to_q twice: by {Q}.* and {FLAT}",
    ),
    "two adapters": (
        {
            f"blocks.0.self_attn.q.lora_{factor}.{name}.weight": torch.ones(24, 24)
            for factor in "AB"
            for name in ("one", "two")
        },
        r"changes blocks\.0\.attn1\.to_q twice",
    ),
    "unclear parts": (
        pair("transformer.blocks.0.attn1.to_q")
        | pair("transformer_2.blocks.0.attn1.to_q")
        | pair("blocks.0.attn1.to_k"),
        r"several parts, but does not say for which blocks\.0\.attn1\.to_k\.lora_down\.weight, ",
    ),
    # values
    "NaN": (
        {f"{Q}.lora_down.weight": torch.ones(2, 24), f"{Q}.lora_up.weight": bad(torch.nan)},
        rf"NaN or infinity in {Q}\.lora_up",
    ),
    "infinity": ({f"{Q}.diff": torch.full((24, 24), -torch.inf)}, rf"NaN or infinity in {Q}\.diff\."),
    "NaN beside zeros": (
        {f"{Q}.lora_down.weight": torch.full((2, 24), torch.nan), f"{Q}.lora_up.weight": torch.zeros(24, 2)},
        "NaN or infinity",
    ),
    "NaN behind a change": (
        {**pair(), "head.diff_m": torch.full((1, 2, 24), torch.nan)},
        r"NaN or infinity in head\.diff_m",
    ),
    "an untrained file": (
        {f"{Q}.lora_down.weight": torch.ones(2, 24), f"{Q}.lora_up.weight": torch.zeros(24, 2)},
        "changes nothing: all of its values are 0",
    ),
    "additions of 0": ({f"{Q}.diff": torch.zeros(24, 24), f"{Q}.diff_b": torch.zeros(24)}, "changes nothing"),
    "only a text encoder": (
        {"lora_te_layer.lora_up.weight": torch.ones(2, 2)},
        "changes nothing: it has no tensors for transformer",
    ),
    "no tensors": ({}, "changes nothing: it has no tensors"),
    "an alpha of 0": ({**pair(), f"{Q}.alpha": torch.tensor(0.0)}, rf"{Q}\.alpha = 0\.0, which is not an alpha"),
    "an alpha that is no number": ({**pair(), f"{Q}.alpha": torch.tensor(torch.nan)}, "= nan, which is not an alpha"),
    "two alphas": ({**pair(), f"{Q}.alpha": torch.ones(2)}, rf"{Q}\.alpha with 2 values"),
    "whole numbers": (
        {f"{Q}.lora_down.weight": torch.ones(2, 24, dtype=torch.int8), f"{Q}.lora_up.weight": torch.ones(24, 2)},
        rf"has {Q}\.lora_down\.weight as I8, which is not supported",
    ),
    "a rank above both sides": (
        pair(rank=25),
        rf"has rank 25 for {Q}\.lora_up\.weight, which must be from 1 to 24",
    ),
    "a rank of 0": (pair(rank=0), "has rank 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused(case: str, merge: Merge) -> None:
    tensors, words = REFUSED[case]
    with pytest.raises(UnsupportedModelError, match=words) as error:
        merge(tensors)
    assert "lora.safetensors" in str(error.value)


METADATA: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "lora_adapter_metadata that is not JSON"),
    "nested without end": ("[" * 100_000, "lora_adapter_metadata that is not JSON"),
    "no object": ("[]", "lora_adapter_metadata that is not a JSON object"),
    "DoRA": ({"use_dora": True}, "is a DoRA, which is not supported: lora_adapter_metadata says so"),
    "DoRA of a part": ({"transformer.use_dora": True}, "is a DoRA"),
    "LoHa": ({"peft_type": "LOHA"}, "is a LOHA, which is not supported"),
    "an alpha that is text": ({"lora_alpha": "16"}, "lora_alpha = 16, which is not an alpha"),
    "an alpha of 0": ({"lora_alpha": 0}, "lora_alpha = 0, which is not an alpha"),
    "an alpha that is true": ({"lora_alpha": True}, "lora_alpha = True, which is not an alpha"),
    "an infinite alpha": ({"lora_alpha": float("inf")}, "lora_alpha = inf, which is not an alpha"),
    "a pattern's alpha": ({"alpha_pattern": {"to_q": None}}, "alpha_pattern to_q = None, which is not an alpha"),
    "a list of patterns": ({"alpha_pattern": ["to_q"]}, "alpha_pattern is not an object of at most 4096 entries"),
    "a slow pattern": ({"alpha_pattern": {"(a+)+$": 1}}, r"alpha_pattern '\(a\+\)\+\$' is not supported"),
    "many wildcards": ({"alpha_pattern": {".*a.*b.*c": 1}}, r"alpha_pattern '\.\*a.*' is not supported"),
    "many patterns with wildcards": (
        {"alpha_pattern": {f".*{index}": 1 for index in range(101)}},
        "alpha_pattern has more than 100 wildcards",
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_are_refused(case: str, merge: Merge) -> None:
    fields, words = METADATA[case]
    with pytest.raises(UnsupportedModelError, match=words) as error:
        merge(pair(), {"lora_adapter_metadata": fields if isinstance(fields, str) else json.dumps(fields)})
    assert "lora.safetensors" in str(error.value)


@pytest.mark.parametrize("strength", [0.0, float("nan"), float("inf")])
def test_a_strength_of_nothing_is_refused(strength: float, merge: Merge) -> None:
    with pytest.raises(UnsupportedModelError, match="has to be a finite number other than 0"):
        merge(pair(), strength=strength)


def cut_off(content: bytes) -> bytes:
    return content[:-1]


def longer(content: bytes) -> bytes:
    return content + b"\0"


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (cut_off, "truncated or damaged"),
    "cut off in the header": (lambda content: content[:40], "truncated or damaged"),
    "too long": (longer, "truncated or damaged"),
    "empty": (lambda _: b"", "truncated or damaged"),
    "a Git LFS pointer": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 10\n",
        "Git LFS pointer",
    ),
    "a header without end": (lambda content: b"\xff" * 8 + content[8:], "truncated or damaged"),
    "metadata that are no text": (
        lambda content: content.replace(b'{"format":"pt"}', b'{"format":1234}'),
        "truncated, damaged or in another format",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    breaks, words = BROKEN[case]
    path = tmp_path / "lora.safetensors"
    save_file(pair(), path, {"format": "pt"})
    path.write_bytes(breaks(path.read_bytes()))

    with pytest.raises(UnsupportedModelError, match=words) as error:
        Loras([(path, 1.0)], family_of("WanPipeline"), "transformer")
    assert "lora.safetensors" in str(error.value)


def test_a_file_has_a_limit_of_tensors(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_file, "MAX_TENSORS", 1)
    with pytest.raises(UnsupportedModelError, match="has 2 tensors; the limit of a LoRA file is 1"):
        merge(pair())


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"gone\.safetensors is not a readable LoRA file"):
        Loras([(tmp_path / "gone.safetensors", 1.0)], family_of("WanPipeline"), "transformer")


def test_a_part_that_takes_no_loras_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="is for vae, which takes no LoRAs"):
        Loras([(tmp_path / "lora.safetensors", 1.0)], family_of("WanPipeline"), "vae")


def test_the_files_of_a_part_are_checked_each(transformer: WanTransformer3DModel, tmp_path: Path) -> None:
    save_file(pair(), tmp_path / "good.safetensors")
    save_file({f"{Q}.diff": torch.zeros(24, 24)}, tmp_path / "zero.safetensors")
    loras = Loras(
        [(tmp_path / f"{name}.safetensors", 1.0) for name in ("good", "zero")], family_of("WanPipeline"), "transformer"
    )
    with pytest.raises(UnsupportedModelError, match=r"zero\.safetensors changes nothing"):
        loras.check(transformer)
