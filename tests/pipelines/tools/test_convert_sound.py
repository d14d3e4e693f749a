"""A published Stable Audio 3 becomes a folder of the same weights, and what cannot be converted is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableAudio3Pipeline
from safetensors.torch import load_file, save_file

from pipelines.core.errors import UnsupportedModelError, WeightFormatError, WeightsNotFoundError
from pipelines.core.model import SoundSpec
from pipelines.layers.stable_audio_3 import ChunkedAutoencoderSAME, ReferenceDurationEmbedder, ReferenceTransformer
from pipelines.stages.audio.sound_model import SoundModel
from pipelines.tools.convert_sound import convert, main
from pipelines.tools.stable_audio_3.tensors import Move, SourceFile, write_tensors
from tests.support.models.stable_audio_3 import MAX_TOKENS, RATE, TEXT_ENCODER, write_published

# of diffusers' autoencoder
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")

FUSED = "model.model.transformer.layers.1.self_attn.to_qkv.weight"


def load(folder: Path, size: str) -> Any:
    own = {"vae": ChunkedAutoencoderSAME.from_pretrained(folder / "vae")} if size == "small" else {}
    pipe = StableAudio3Pipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32, **own)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_published(tmp_path / "published", "small")
    return tmp_path / "published"


@pytest.mark.parametrize("size", ["small", "medium"])
def test_every_tensor_is_the_published_one(tmp_path: Path, size: str) -> None:
    models = write_published(tmp_path / "published", size)
    assert main([str(tmp_path / "published"), str(tmp_path / "made" / "converted")]) is None
    pipe = load(tmp_path / "made" / "converted", size)
    for name, model in models.items():
        # the whole text encoder's names have its encoder's before them
        made = {key.removeprefix("encoder."): value for key, value in getattr(pipe, name).state_dict().items()}
        expected = {key.removeprefix("encoder."): value for key, value in model.state_dict().items()}
        assert made.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(made[key].float(), tensor.float()), f"{name}.{key}"
    assert pipe.scheduler.config.stochastic_sampling is (size == "small")
    assert pipe.scheduler.config.num_train_timesteps == 1
    assert pipe.tokenizer.model_max_length == MAX_TOKENS
    assert pipe.tokenizer("a do").input_ids == pipe.tokenizer.convert_tokens_to_ids(["a", "▁", "do"])
    assert (tmp_path / "made" / "converted" / "LICENSE.md").is_file()


@pytest.mark.parametrize("size", ["small", "medium"])
def test_it_makes_a_sound_of_the_length_asked_for(tmp_path: Path, size: str) -> None:
    write_published(tmp_path / "published", size)
    convert(tmp_path / "published", tmp_path / "converted")
    pipe = load(tmp_path / "converted", size)
    sounds = [
        pipe("a dog", duration=0.7, num_inference_steps=2, generator=torch.Generator().manual_seed(1)).audios
        for _ in range(2)
    ]
    assert sounds[0].shape == (1, 2, int(0.7 * RATE))
    assert torch.isfinite(sounds[0]).all()
    assert sounds[0].std() > 0
    assert torch.equal(*sounds)


def test_what_was_converted_is_heard_with_a_video(tmp_path: Path, small: Path) -> None:
    convert(small, tmp_path / "converted")
    spec = SoundSpec(str(tmp_path / "converted"), "StableAudio3Pipeline", num_inference_steps=2, id="sfx")
    model = SoundModel(spec, "cpu")

    samples, rate = model.make("a dog", 0.7, 1)

    assert (samples.shape, rate) == ((2, round(0.7 * RATE)), RATE)
    assert samples.std() > 0
    # the classes that follow the authors' program, not diffusers' own
    assert isinstance(model._pipe.transformer, ReferenceTransformer)
    assert isinstance(model._pipe.vae, ChunkedAutoencoderSAME)
    assert isinstance(model._pipe.duration_embedder, ReferenceDurationEmbedder)


def test_weights_take_16_bits_and_frequencies_32(tmp_path: Path, small: Path) -> None:
    convert(small, tmp_path / "converted")
    kinds = {
        (part.parent.name, str(tensor.dtype).removeprefix("torch."))
        for part in (tmp_path / "converted").glob("*/*.safetensors")
        for name, tensor in load_file(part).items()
        if name not in ("rotary_pos_emb.inv_freq", "freqs")
    }
    assert kinds == {
        ("transformer", "float16"),
        ("vae", "float16"),
        ("duration_embedder", "float16"),
        ("text_encoder", "bfloat16"),
    }
    for part, name in (("transformer", "rotary_pos_emb.inv_freq"), ("duration_embedder", "freqs")):
        stored = load_file(tmp_path / "converted" / part / "diffusion_pytorch_model.safetensors")
        assert stored[name].dtype is torch.float32


def test_diffusers_own_class_does_not_take_the_small_autoencoder(tmp_path: Path, small: Path) -> None:
    convert(small, tmp_path / "converted")
    with pytest.raises((ValueError, RuntimeError), match="mapping"):
        StableAudio3Pipeline.from_pretrained(tmp_path / "converted", local_files_only=True)


def test_another_text_encoder_can_be_given(tmp_path: Path, small: Path) -> None:
    (small / TEXT_ENCODER).rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsNotFoundError, match=rf"{TEXT_ENCODER}/config\.json"):
        convert(small, tmp_path / "converted")
    assert main([str(small), str(tmp_path / "converted"), "--text-encoder", str(tmp_path / "elsewhere")]) is None
    assert load(tmp_path / "converted", "small").text_encoder.config.encoder.num_hidden_layers == 2


CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda state: state.pop(FUSED), rf"has no {FUSED}\."),
    "extra": (
        lambda state: state.update({"model.model.transformer.layers.0.conformer.in_norm.gamma": torch.ones(3)}),
        r"also has model\.model\.transformer\.layers\.0\.conformer\.in_norm\.gamma, which no part",
    ),
    "extra block": (
        lambda state: state.update({"model.model.transformer.layers.2.pre_norm.gamma": torch.ones(128)}),
        r"also has model\.model\.transformer\.layers\.2\.pre_norm\.gamma",
    ),
    "shape": (
        lambda state: state.update({FUSED: torch.zeros(640, 128)}),
        rf"has {FUSED} as \[640, 128\]; its settings need \[384, 128\]\.",
    ),
    "narrow mapping": (
        lambda state: state.update({"pretransform.model.decoder.layers.3.mapping.weight_v": torch.ones(8, 64, 1)}),
        r"mapping\.weight_v as \[8, 64, 1\]; its settings need \[8, 64, 3\]",
    ),
    "integers": (
        lambda state: state.update({FUSED: torch.zeros(384, 128, dtype=torch.int32)}),
        rf"has {FUSED} as I32, which is not converted",
    ),
    "noise": (
        lambda state: state.update({"pretransform.model.bottleneck.noise_scaling_factor": torch.ones(1, 2, 1)}),
        r"noise_scaling_factor as \[1, 2, 1\]",
    ),
    "frequencies": (
        lambda state: state.update({"model.model.transformer.rotary_pos_emb.inv_freq": torch.ones(16)}),
        r"other frequencies in model\.model\.transformer\.rotary_pos_emb\.inv_freq",
    ),
    "not a number": (
        lambda state: state[FUSED][3, 3].fill_(float("nan")),
        rf"{FUSED} has numbers that are not finite in float16",
    ),
    "too large": (
        lambda state: state[FUSED].fill_(1e6),
        rf"{FUSED} has numbers that are not finite in float16",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_tensor_is_named_and_nothing_is_written(tmp_path: Path, small: Path, change: str) -> None:
    change_state, message = CHANGES[change]
    state = load_file(small / "model.safetensors")
    change_state(state)
    save_file(state, small / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=message):
        convert(small, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


SETTINGS: dict[str, tuple[str, Any, str]] = {
    "learned features": ("diffusion.config.timestep_features_type", "learned", "'expo'"),
    "noise levels": ("diffusion.config.timestep_features_logsnr", True, "False"),
    "patches": ("diffusion.config.patch_size", 2, "1"),
    "prepended": ("diffusion.config.global_cond_type", "prepend", "'adaLN'"),
    "narrow heads": ("diffusion.config.num_heads", 4, "a divisor that leaves each head 64 or more"),
    "epsilon": ("diffusion.config.norm_kwargs.eps", 1e-3, "1e-05"),
    "objective": ("diffusion.diffusion_objective", "v", "'rf_denoiser' or 'rectified_flow'"),
    "schedule": ("diffusion.sampling_distribution_shift_options", {"type": "flux"}, "None"),
    "conditions": ("diffusion.global_cond_ids", ["prompt"], r"\['seconds_total'\]"),
    "many tokens": ("conditioning.configs.0.config.max_length", 300, "from 1 to 256"),
    "zero padding": ("conditioning.configs.0.config.padding_mode", "zero", "'learned'"),
    "another text encoder": ("conditioning.configs.0.type", "t5", "a t5gemma named prompt"),
    "a folder above": ("conditioning.configs.0.config.subfolder", "../other", "the name of a folder"),
    "soft clipping": ("pretransform.config.decoder.soft_clip", True, "False"),
    "another depth": ("pretransform.config.decoder.config.transformer_depths", [3], r"\[4\]"),
    "half chunks": ("pretransform.config.encoder.config.chunk_size", 4, "4"),
    "fixed strides": ("pretransform.config.encoder.config.variable_stride", False, "True"),
    "no ratio": ("pretransform.config.downsampling_ratio", None, "16"),
    "no number": ("diffusion.config.depth", "2", "a whole number"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_cannot_be_followed_is_named(tmp_path: Path, small: Path, setting: str) -> None:
    dotted, value, message = SETTINGS[setting]
    config = json.loads((small / "model_config.json").read_text())
    *parents, last = dotted.split(".")
    section = config["model"]
    for parent in parents:
        section = section[int(parent) if isinstance(section, list) else parent]
    section[last] = value
    (small / "model_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=rf"model\..* = .*converted only if it is {message}"):
        convert(small, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_every_tensor_is_aligned_to_its_numbers(tmp_path: Path) -> None:
    stored = {"odd": torch.arange(3.0), "even": torch.arange(4.0)}
    save_file(stored, tmp_path / "source.safetensors")
    source = SourceFile.at(tmp_path / "source.safetensors")
    moves = [
        Move("a", "odd", (3,), torch.float16),
        Move("b", "even", (4,), torch.float32),
        Move("c", "", (2,), torch.float32, value=torch.ones(2)),
    ]
    write_tensors(source, moves, tmp_path / "made.safetensors")
    content = (tmp_path / "made.safetensors").read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    assert header_bytes % 8 == 0
    assert all(header[name]["data_offsets"][0] % 4 == 0 for name in ("b", "c"))
    made = load_file(tmp_path / "made.safetensors")
    assert torch.equal(made["a"], stored["odd"].half())
    assert torch.equal(made["b"], stored["even"])
    assert torch.equal(made["c"], torch.ones(2))


def test_a_folder_without_settings_is_refused(tmp_path: Path, small: Path) -> None:
    (small / "model_config.json").unlink()
    message = main([str(small), str(tmp_path / "converted")])
    assert message == f"The weights are incomplete: {small / 'model_config.json'} is missing."


def test_a_truncated_file_is_refused(tmp_path: Path, small: Path) -> None:
    content = (small / "model.safetensors").read_bytes()
    (small / "model.safetensors").write_bytes(content[:-10])
    with pytest.raises(WeightsNotFoundError, match="truncated or damaged"):
        convert(small, tmp_path / "converted")


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path, small: Path) -> None:
    (tmp_path / "converted").mkdir()
    with pytest.raises(WeightFormatError, match="is there already"):
        convert(small, tmp_path / "converted")
    assert list((tmp_path / "converted").iterdir()) == []
