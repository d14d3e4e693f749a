"""Small random models that make sounds, in the folders that diffusers' pipelines read."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import (
    AutoencoderOobleck,
    AutoencoderSAME,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LongCatAudioDiTPipeline,
    LongCatAudioDiTTransformer,
    LongCatAudioDiTVae,
    StableAudio3DiTModel,
    StableAudio3Pipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from transformers import T5Config, T5EncoderModel, T5GemmaConfig, T5GemmaEncoderModel, T5GemmaModuleConfig

from pipelines.core.model import SoundSpec
from tests.support.models.wan21 import text_parts

RATE = 8_000


def stable_audio_3_folder(folder: Path) -> Path:
    """Stable Audio 3's classes: 64 samples a latent, stereo."""
    torch.manual_seed(0)
    tokenizer, _ = text_parts()
    tokenizer.model_max_length = 32
    module = T5GemmaModuleConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        layer_types=["full_attention"],
    )
    encoder = T5GemmaEncoderModel(
        T5GemmaConfig(encoder=module, decoder=module, vocab_size=len(tokenizer), is_encoder_decoder=False)
    )
    transformer = StableAudio3DiTModel(
        io_channels=8,
        embed_dim=32,
        depth=1,
        num_heads=2,
        cond_token_dim=32,
        global_cond_dim=32,
        local_add_cond_dim=9,
        timestep_features_dim=16,
        ff_mult=1.0,
        num_memory_tokens=2,
    )
    vae = AutoencoderSAME(
        patch_size=16,
        encoder_channels=8,
        encoder_c_mults=[4],
        encoder_strides=[4],
        encoder_transformer_depths=[1],
        latent_dim=8,
        dim_heads=16,
        ff_mult=1,
        sampling_rate=RATE,
    )
    _alive(transformer)
    _alive(vae)
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    embedder = StableAudio3DurationEmbedder(output_dim=32, fourier_dim=16)
    StableAudio3Pipeline(vae, encoder, tokenizer, embedder, transformer, scheduler).save_pretrained(folder)
    return folder


def stable_audio_folder(folder: Path) -> Path:
    """Stable Audio Open's classes: sounds of at most 10.24 seconds, stereo. Its own scheduler needs another package."""
    torch.manual_seed(0)
    tokenizer, _ = text_parts()
    tokenizer.model_max_length = 32
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    )
    transformer = StableAudioDiTModel(
        sample_size=1280,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=32,
        cross_attention_input_dim=32,
        time_proj_dim=8,
        global_states_input_dim=64,
    )
    with _without_warnings():
        vae = AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[8, 8],
            channel_multiples=[1, 2],
            decoder_channels=8,
            decoder_input_channels=4,
            sampling_rate=RATE,
        )
    projection = StableAudioProjectionModel(32, 32, 0, 512)
    scheduler = EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", sigma_schedule="exponential")
    StableAudioPipeline(vae, encoder, projection, tokenizer, transformer, scheduler).save_pretrained(folder)
    return folder


def longcat_folder(folder: Path) -> Path:
    """LongCat-AudioDiT's classes: 64 samples a latent, one channel."""
    torch.manual_seed(0)
    tokenizer, encoder = text_parts()
    transformer = LongCatAudioDiTTransformer(dit_dim=32, dit_depth=1, dit_heads=2, dit_text_dim=32, latent_dim=8)
    with _without_warnings():
        vae = LongCatAudioDiTVae(
            channels=8,
            c_mults=[1, 2],
            strides=[8, 8],
            latent_dim=8,
            encoder_latent_dim=16,
            downsampling_ratio=64,
            sample_rate=RATE,
        )
    _alive(transformer)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    LongCatAudioDiTPipeline(vae, encoder, tokenizer, transformer, scheduler).save_pretrained(folder)
    return folder


@contextmanager
def _without_warnings() -> Iterator[None]:
    # diffusers' autoencoders use what torch will drop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _alive(part: torch.nn.Module) -> None:
    """Give random values to parameters that begin as zero, so that everything counts."""
    for parameter in part.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)


SOUND_FOLDERS: dict[str, Callable[[Path], Path]] = {
    "StableAudio3Pipeline": stable_audio_3_folder,
    "StableAudioPipeline": stable_audio_folder,
    "LongCatAudioDiTPipeline": longcat_folder,
}
"""What writes the folder of each pipeline class."""


def sound_spec(folder: Path, pipeline_class: str, **changes: object) -> SoundSpec:
    """The specification of a small model, whose folder is written."""
    SOUND_FOLDERS[pipeline_class](folder)
    fields = {"num_inference_steps": 2, "max_seconds": 10.0, "id": "small", **changes}
    return SoundSpec(str(folder), pipeline_class, **fields)  # type: ignore[arg-type]
