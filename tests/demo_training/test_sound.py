"""The sound model's training: drawn sounds, captions, the judge, and that it computes what diffusers does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LongCatAudioDiTPipeline

from demo_training.sound.autoencoder import (
    DEVIATION,
    LATENT_CHANNELS,
    NOISE,
    build_autoencoder,
    energy_loss,
    fix_deviations,
)
from demo_training.sound.basis import RATIO, SIGNAL, fit_basis
from demo_training.sound.captions import HELD_OUT_SENTENCES, describe_scene, held_out_prompts, training_caption
from demo_training.sound.export import export
from demo_training.sound.judge import OTHER, example, fitted
from demo_training.sound.sounds import KINDS, LEVELS, RATE, draw
from demo_training.sound.spectrogram import picture
from demo_training.sound.train_autoencoder import train as train_autoencoder
from demo_training.sound.train_text import TEXT_DIM, build_text_encoder, build_tokenizer, encode_texts
from demo_training.sound.train_text import train as train_text
from demo_training.sound.train_transformer import Trainer, build_transformer, flow_loss
from pipelines.demo.folder import demo_sound_folder

# diffusers uses what torch has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_follows_from_its_seed_and_has_its_level(kind: str) -> None:
    first, again = (draw(kind, RATE * 3, np.random.default_rng(5)) for _ in range(2))

    assert first.tobytes() == again.tobytes()
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    assert LEVELS[kind] * 0.6 < first.std() < LEVELS[kind] * 1.5


def test_the_judge_tells_drawn_sounds_apart_whatever_their_loudness() -> None:
    classifier = fitted(12)
    right = {
        name: np.mean(
            [classifier.kind(example(name, index, 1) * gain) == name for index in range(10) for gain in (1, 0.3)]
        )
        for name in KINDS
    }

    assert min(right.values()) >= 0.9
    for name in classifier.names[len(KINDS) :]:
        assert classifier.kind(example(name, 0, 1)) == OTHER


def test_captions_name_the_asked_kind_in_both_languages_and_never_in_a_held_out_wording() -> None:
    asked = held_out_prompts(60, 3)
    assert sorted((caption.kind, caption.language) for caption in asked) == sorted(
        (kind, language) for kind in KINDS for language in ("en", "zh") for _ in range(5)
    )
    rng = np.random.default_rng(0)
    trained = [
        training_caption(kind, language, rng).text
        for _ in range(300)
        for kind, language in zip(KINDS, 3 * ["en", "zh"], strict=True)
    ]
    for sentences in HELD_OUT_SENTENCES.values():
        for sentence in sentences:
            before, after = sentence.split("{sound}")
            longest = max(before, after, key=len).strip()
            assert not any(longest in text for text in trained)


def test_a_caption_of_a_clip_asks_for_the_sound_that_fits() -> None:
    rng = np.random.default_rng(1)

    assert "lake" in describe_scene("water", "en", rng).text.lower()
    night = describe_scene("crickets", "en", rng).text.lower()
    assert "night" in night or "moon" in night


def test_the_encoder_adds_plain_noise_in_the_noise_channels() -> None:
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    sounds = torch.randn(1, 1, RATIO * 200) * 0.1
    with torch.no_grad():
        vae.encoder.layers[-1].weight_g.add_(1)
        fix_deviations(vae)
        mean = vae.encode(sounds, sample_posterior=False).latents
        added = vae.encode(sounds).latents - mean
        decoded = vae.decode(mean).sample

    assert mean.shape == (1, LATENT_CHANNELS, 200)
    assert mean[:, :SIGNAL].std() > 0
    assert mean[:, SIGNAL:].abs().max() == 0
    assert added[:, :SIGNAL].std() == pytest.approx(DEVIATION, rel=0.05)
    assert added[:, SIGNAL:].std() == pytest.approx(1, rel=0.05)
    assert decoded.shape == sounds.shape


def test_the_autoencoder_begins_with_filters_that_lose_nothing() -> None:
    torch.manual_seed(0)
    vae = build_autoencoder()
    sound = torch.randn(1, 1, 6400) * 0.1
    analyse = [vae.encoder.layers[0], vae.encoder.layers[1].layers[4]]
    synthesise = [vae.decoder.layers[-4].layers[1], vae.decoder.layers[-2]]

    with torch.no_grad():
        again = torch.nn.Sequential(*analyse, *synthesise)(sound)

    torch.testing.assert_close(again[..., 64:-64], sound[..., 64:-64], atol=1e-4, rtol=0)


def test_latents_say_when_and_how_loud_a_sound_is() -> None:
    basis = fit_basis(1)
    sound = draw("beeps", RATIO * 100, np.random.default_rng(0))
    later = np.concatenate([np.zeros(RATIO * 10, np.float32), sound])

    latents = basis.latents(sound)
    assert latents.shape == (SIGNAL, 100)
    np.testing.assert_allclose(basis.latents(later)[:, 15:], latents[:, 5:], atol=1e-3)
    silent = basis.latents(np.zeros(RATIO * 3, np.float32))
    assert np.abs(latents[:, 50:] - silent[:, :1]).max() > 0.5


def test_the_loss_prefers_noise_to_a_buzz() -> None:
    torch.manual_seed(0)
    true, one, other = (torch.randn(4, 8192) * 0.1 for _ in range(3))
    buzz = torch.zeros(4, 8192)
    buzz[:, ::RATIO] = 0.1 * RATIO**0.5

    assert energy_loss(true, one, other) < energy_loss(true, buzz, buzz)
    assert energy_loss(true, one, other) < energy_loss(true, one * 2, other * 2)


def test_texts_are_encoded_as_the_pipeline_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_training.sound.train_text.SAMPLES", 1500)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer).eval()
    pipeline = LongCatAudioDiTPipeline(build_autoencoder(), encoder, tokenizer, build_transformer())
    texts = ["the sound of “Waves”", "鸟叫声", "蟋蟀的叫声，夜晚的草地"]

    with torch.no_grad():
        states, mask = encode_texts(tokenizer, encoder, texts)
    expected, lengths = pipeline.encode_prompt(
        [text.lower().replace("“", "").replace("”", "") for text in texts], torch.device("cpu")
    )

    torch.testing.assert_close(states, expected)
    assert mask.sum(1).tolist() == lengths.tolist()
    assert tokenizer.unk_token_id not in tokenizer("鸟叫声 蟋蟀 海浪 哔哔声").input_ids


def test_noise_channels_stay_as_they_begin() -> None:
    torch.manual_seed(0)
    model = build_transformer()
    text, mask = torch.randn(2, 5, TEXT_DIM), torch.ones(2, 5, dtype=torch.bool)

    flow_loss(model, torch.randn(2, LATENT_CHANNELS, 8), text, mask, torch.tensor([0.2, 0.7])).backward()

    assert model.proj_out.weight.grad[SIGNAL:].abs().max() == 0
    assert model.proj_out.weight.grad[:SIGNAL].abs().max() > 0
    assert model.proj_out.weight[SIGNAL:].abs().max() == 0
    assert model.proj_out.weight.shape[0] == SIGNAL + NOISE


def test_a_training_of_few_steps_resumes_and_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_training.sound.latents.SHARD", 2)
    monkeypatch.setattr("demo_training.sound.basis.CLIPS", 1)
    monkeypatch.setattr("demo_training.sound.train_text.SAMPLES", 300)
    monkeypatch.setattr("demo_training.sound.train_text.CHECKED", 6)
    train_text(tmp_path / "text", 1, 1e-3)
    monkeypatch.setattr("demo_training.sound.train_autoencoder.CROP", 16)
    for part, steps in (("decoder", 1), ("decoder", 2), ("encoder", 1)):
        train_autoencoder(tmp_path, part, steps, 1e-3, pool_size=len(KINDS))
    Trainer(tmp_path, 1e-3, shards=1).train(1)
    Trainer(tmp_path, 1e-3, shards=1).train(2)

    export(tmp_path, tmp_path / "weights")

    pipeline = LongCatAudioDiTPipeline.from_pretrained(tmp_path / "weights", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = [
        pipeline(
            "海浪声", audio_duration_s=0.5, num_inference_steps=2, generator=torch.Generator().manual_seed(1)
        ).audios
        for _ in range(2)
    ]
    assert made[0].shape == (1, 1, int(0.5 * RATE // RATIO) * RATIO)
    assert made[0].tobytes() == made[1].tobytes()
    assert pipeline.scheduler.config.invert_sigmas
    assert (tmp_path / "weights" / "scheduler" / "scheduler_config.json").is_file()
    assert sum(file.stat().st_size for file in (tmp_path / "weights").rglob("*")) < 6_000_000


def test_a_picture_of_spectrograms_is_written(tmp_path: Path) -> None:
    picture([(kind, draw(kind, RATE, np.random.default_rng(0))) for kind in KINDS], 3, tmp_path / "sounds.png")

    assert (tmp_path / "sounds.png").stat().st_size > 1000


def test_the_weights_are_small_and_make_what_is_asked_for() -> None:
    folder = demo_sound_folder()
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 6_000_000
    pipeline = LongCatAudioDiTPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    heard = [
        fitted(12).kind(
            pipeline(
                prompt,
                audio_duration_s=3.0,
                num_inference_steps=8,
                guidance_scale=2.0,
                generator=torch.Generator().manual_seed(0),
            ).audios[0, 0]
        )
        for prompt in ("四周回荡着海浪声", "only chirping birds can be heard here", "a lake with mountains behind")
    ]

    assert heard == ["waves", "birds", "water"]
