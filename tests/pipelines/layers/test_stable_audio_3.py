"""SAME-S attends inside of its chunks only, and a missing inpainting condition is one of zeros."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderSAME, StableAudio3DiTModel

from pipelines.layers.stable_audio_3 import ChunkedAutoencoderSAME, ReferenceDurationEmbedder, ReferenceTransformer
from tests.support.models.stable_audio_3 import LATENT, PATCH, STRIDE, diffusers_models

# of diffusers' autoencoder
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")

RATIO = PATCH * STRIDE


def autoencoder(**settings: Any) -> ChunkedAutoencoderSAME:
    """A random one, with two latents in a chunk and mappings that see one frame."""
    published = diffusers_models("small")["vae"]
    config = {**published.config, "decoder_mapping_width": 1, **settings}
    model = ChunkedAutoencoderSAME.from_config(config).eval().requires_grad_(False)
    weights = {name: value[..., :1] if "mapping" in name else value for name, value in published.state_dict().items()}
    weights |= {name: value for name, value in published.state_dict().items() if name.endswith("mapping.bias")}
    model.load_state_dict(weights)
    return model


def test_chunks_do_not_see_each_other() -> None:
    model = autoencoder(shifted_chunks=False)
    latents = torch.randn(2, LATENT, 6, generator=torch.Generator().manual_seed(0))
    chunks = [model.decode(chunk).sample for chunk in latents.split(2, dim=-1)]
    torch.testing.assert_close(model.decode(latents).sample, torch.cat(chunks, dim=-1))
    audio = torch.randn(2, 2, 6 * RATIO, generator=torch.Generator().manual_seed(1))
    chunks = [model.encode(chunk).latents for chunk in audio.split(2 * RATIO, dim=-1)]
    torch.testing.assert_close(model.encode(audio).latents, torch.cat(chunks, dim=-1))


@pytest.mark.parametrize(("changed", "reached"), [(0, (0, 3)), (3, (1, 5)), (6, (5, 9)), (7, (5, 9))])
def test_shifted_chunks_reach_the_half_of_their_neighbours(changed: int, reached: tuple[int, int]) -> None:
    model = autoencoder()
    latents = torch.randn(1, LATENT, 10, generator=torch.Generator().manual_seed(0))
    other = latents.clone()
    other[..., changed] += 1
    difference = (model.decode(other).sample - model.decode(latents).sample).abs()
    moved = difference.unflatten(-1, (10, RATIO)).amax(dim=(0, 1, 3)) > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(*reached))
    audio = torch.randn(1, 2, 10 * RATIO, generator=torch.Generator().manual_seed(1))
    louder = audio.clone()
    louder[..., changed * RATIO] += 1
    moved = (model.encode(louder).latents - model.encode(audio).latents).abs().amax(dim=(0, 1)) > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(*reached))


@pytest.mark.parametrize("length", [1, 5])
def test_half_a_chunk_is_filled_with_zeros_and_cut_off(length: int) -> None:
    model = diffusers_models("small")["vae"]
    for side, channels, frames, made in ((model.decoder, 64, 1, STRIDE), (model.encoder, 2 * PATCH, STRIDE, 1)):
        half = torch.randn(1, channels, length * frames, generator=torch.Generator().manual_seed(0))
        whole = torch.cat([half, torch.zeros(1, channels, frames)], dim=-1)
        expected = side.blocks[0](whole)[..., : length * made]
        assert torch.equal(side.blocks[0](half), expected)


def test_without_chunks_it_is_diffusers_own() -> None:
    own = diffusers_models("medium")["vae"]
    model = ChunkedAutoencoderSAME.from_config(own.config).eval()
    model.load_state_dict(own.state_dict())
    latents = torch.randn(1, LATENT, 6, generator=torch.Generator().manual_seed(0))
    assert isinstance(own, AutoencoderSAME)
    assert torch.equal(model.decode(latents).sample, own.decode(latents).sample)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": STRIDE}, "no whole segments"),
        ({"chunk_size": STRIDE + 1, "shifted_chunks": False}, "no whole segments"),
        ({"chunk_size": None, "decoder_mapping_width": 3}, "need a chunk_size"),
    ],
)
def test_impossible_chunks_are_refused(settings: dict[str, Any], message: str) -> None:
    config = {**diffusers_models("small")["vae"].config, **settings}
    with pytest.raises(ValueError, match=message):
        ChunkedAutoencoderSAME.from_config(config)


def test_a_missing_inpainting_condition_is_one_of_zeros() -> None:
    plain: StableAudio3DiTModel = diffusers_models("small")["transformer"]
    transformer = ReferenceTransformer.from_config(plain.config).eval().requires_grad_(False)
    transformer.load_state_dict(plain.state_dict())
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, LATENT, 6, generator=generator)
    condition = torch.randn(1, LATENT + 1, 6, generator=generator)
    words = torch.randn(1, 4, 32, generator=generator)
    given = {"timestep": torch.tensor([0.5]), "encoder_hidden_states": words, "global_hidden_states": words[:, 0]}
    empty = transformer(latents, local_add_cond=torch.zeros_like(condition), **given).sample
    masked = transformer(latents, local_add_cond=condition, **given).sample
    assert torch.equal(transformer(latents, **given).sample, empty)
    assert torch.equal(transformer(latents, return_dict=False, **given)[0], empty)
    assert not torch.allclose(plain(latents, **given).sample, empty, rtol=1e-2)
    # the epsilons differ
    other = plain(latents, local_add_cond=condition, **given).sample
    assert not torch.equal(other, masked)
    torch.testing.assert_close(other, masked, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("part", "reader", "frequencies"),
    [
        ("transformer", ReferenceTransformer, "rotary_pos_emb.inv_freq"),
        ("duration_embedder", ReferenceDurationEmbedder, "freqs"),
    ],
)
def test_frequencies_stay_exact_in_16_bits(
    tmp_path: Path, part: str, reader: Any, frequencies: str, dtype: torch.dtype
) -> None:
    saved = diffusers_models("small")[part]
    saved.save_pretrained(tmp_path)
    loaded = reader.from_pretrained(tmp_path, dtype=dtype).state_dict()
    assert torch.equal(loaded.pop(frequencies), saved.state_dict()[frequencies])
    assert {tensor.dtype for tensor in loaded.values()} == {dtype}


def test_a_duration_is_embedded_alike_in_16_bits(tmp_path: Path) -> None:
    saved = diffusers_models("small")["duration_embedder"]
    saved.save_pretrained(tmp_path)
    loaded = ReferenceDurationEmbedder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    seconds = torch.tensor([5.0, 30.0])
    torch.testing.assert_close(loaded(seconds).float(), saved(seconds), rtol=0.02, atol=0.02)
