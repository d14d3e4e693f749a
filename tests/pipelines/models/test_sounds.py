"""The catalogue of models for sounds, and which one a model's file names."""

from pathlib import Path

import pytest

from pipelines.core.errors import CatalogueError, UnsupportedModelError
from pipelines.core.model import SoundFailure
from pipelines.models.catalogue import BUILT_IN, read_catalogue
from pipelines.models.registry import parts_family
from pipelines.models.sound.catalogue import read_sound, read_sounds
from pipelines.models.sound.families import sound_family_of

T2V = "wan2.1-t2v-14b.toml"
SOUND = """
[sound]
id = "mine"
repo = "/data/mine"
pipeline_class = "LongCatAudioDiTPipeline"
max_seconds = 30.0
num_inference_steps = 16
guidance_scale = 4.0
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with one of its own for sounds, which the default model names."""
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "mine.toml").write_text(SOUND)
    text = (BUILT_IN / T2V).read_text(encoding="utf-8")
    named = text.replace('model = "stable-audio-3-small-sfx"', 'model = "mine"\nif_failed = "fail"')
    (tmp_path / T2V).write_text(named, encoding="utf-8")
    return tmp_path


def test_every_built_in_model_makes_sounds_by_weights_that_ask_for_consent() -> None:
    sounds = read_sounds([BUILT_IN])

    assert {"stable-audio-3-small-sfx", "stable-audio-open-1.0"} <= sounds.keys()
    for sound in sounds.values():
        assert sound.is_gated
        assert sound.licence is not None
        assert sound.licence.url.startswith("https://")
    for entry in read_catalogue().values():
        assert entry.model.sound == sounds["stable-audio-3-small-sfx"], entry.id


def test_a_file_of_the_users_own_is_named(models: Path) -> None:
    found = read_catalogue([BUILT_IN, models])["wan-ai-wan2-1-t2v-14b-diffusers"].model.sound

    assert found is not None
    assert (found.id, found.repo, found.if_failed, found.licence) == ("mine", "/data/mine", SoundFailure.FAIL, None)
    assert found.guidance_scale == 4.0


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"mine"', '"other"', "audio.model: there is no model for sounds other"),
        ('"fail"', '"loud"', "audio.if_failed"),
        ("if_failed", "whenever", "audio.whenever"),
    ],
)
def test_a_model_that_names_none_is_refused(models: Path, old: str, new: str, named: str) -> None:
    text = (models / T2V).read_text(encoding="utf-8")
    (models / T2V).write_text(text.replace(old, new), encoding="utf-8")

    with pytest.raises(CatalogueError, match=named):
        read_catalogue([BUILT_IN, models])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("LongCatAudioDiTPipeline", "WanPipeline", "sound.pipeline_class"),
        ("max_seconds = 30.0", "max_seconds = 0.0", "sound.max_seconds"),
        ("max_seconds = 30.0", "max_seconds = 601.0", "sound.max_seconds"),
        ("num_inference_steps = 16", "num_inference_steps = 0", "sound.num_inference_steps"),
        ('id = "mine"', 'id = "../mine"', "sound.id"),
        ("guidance_scale", "guidance", "sound.guidance"),
        ("[sound]", "[sounds]", "sound"),
        ("[sound]", "[sound", "mine.toml"),
    ],
)
def test_a_faulty_file_is_named_with_its_key(models: Path, old: str, new: str, named: str) -> None:
    (models / "sounds" / "mine.toml").write_text(SOUND.replace(old, new))

    with pytest.raises(CatalogueError, match=named):
        read_sound(models / "sounds" / "mine.toml")


def test_two_files_with_one_id_are_refused(models: Path) -> None:
    (models / "sounds" / "second.toml").write_text(SOUND)

    with pytest.raises(CatalogueError, match=r"second.toml: mine.toml has the same id, mine"):
        read_sounds([models])


def test_families_are_found_by_their_pipelines() -> None:
    assert parts_family("StableAudio3Pipeline") is sound_family_of("StableAudio3Pipeline")
    assert parts_family("WanPipeline").pipeline_class == "WanPipeline"
    with pytest.raises(UnsupportedModelError, match="StableAudioPipeline"):
        sound_family_of("WanPipeline")
