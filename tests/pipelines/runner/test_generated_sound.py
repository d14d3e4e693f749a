"""Videos whose sound a model makes: the picture stays as it is, and a sound that fails costs no video."""

import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import EncodingError, GenerationCancelled, SoundError, VideoParamsError
from pipelines.core.model import ModelSpec, SoundFailure, SoundSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import SOUND_MODEL, ImageMode, VideoParams
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from tests.support.models.sounds import sound_spec
from tests.support.sound import RATE, packets, samples_of

SILENT = VideoParams("a red circle", " ", 64, 96, 9, 2, 1.0, 7)
HEARD = dataclasses.replace(SILENT, generate_audio=True)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> SoundSpec:
    return sound_spec(tmp_path_factory.mktemp("sound") / "model", "LongCatAudioDiTPipeline")


@pytest.fixture(scope="module")
def runner(processor: str, weights_folder: Path, sound: SoundSpec) -> Runner:
    return Runner.load(ModelSpec("demo", fps=16, sound=sound), weights_folder, "cpu")


def warned(runner: Runner, params: VideoParams, path: Path) -> list[str]:
    """What a run warns of."""
    said: list[str] = []
    runner.run(params, path, Callbacks(on_warnings=said.extend))
    return said


@pytest.mark.parametrize("frames", [1, 9, 17])
def test_a_sound_is_as_long_as_its_video_and_leaves_the_picture(runner: Runner, tmp_path: Path, frames: int) -> None:
    silent = dataclasses.replace(SILENT, num_frames=frames)
    runner.run(silent, tmp_path / "silent.mp4")

    made = runner.run(dataclasses.replace(silent, generate_audio=True), tmp_path / "heard.mp4")

    assert made.has_audio
    assert packets(tmp_path / "heard.mp4") == packets(tmp_path / "silent.mp4")
    heard = samples_of(tmp_path / "heard.mp4")
    # what AAC adds to fill its last block
    assert 0 <= len(heard) - round(frames / 16 * RATE) < 2048
    assert np.abs(heard).max() > 0.01
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_request_gives_the_same_bytes(runner: Runner, tmp_path: Path) -> None:
    first = runner.run(HEARD, tmp_path / "a.mp4").path.read_bytes()
    named = runner.video_fingerprint
    assert runner.run(SILENT, tmp_path / "b.mp4").has_audio is False
    assert SOUND_MODEL not in runner.video_fingerprint

    assert runner.run(HEARD, tmp_path / "c.mp4").path.read_bytes() == first
    assert runner.video_fingerprint == named
    assert named[SOUND_MODEL].startswith("small ")


def test_the_sound_follows_its_own_prompt_and_without_one_the_videos(runner: Runner, tmp_path: Path) -> None:
    of_video = runner.run(HEARD, tmp_path / "a.mp4").path.read_bytes()

    same = runner.run(dataclasses.replace(HEARD, audio_prompt=HEARD.prompt), tmp_path / "b.mp4").path.read_bytes()
    other = runner.run(dataclasses.replace(HEARD, audio_prompt="loud wind"), tmp_path / "c.mp4").path.read_bytes()

    assert same == of_video != other


def test_progress_has_a_stage_and_never_goes_back(runner: Runner, tmp_path: Path) -> None:
    seen: list[Progress] = []

    runner.run(HEARD, tmp_path / "a.mp4", Callbacks(on_progress=seen.append))

    assert [progress.step for progress in seen if progress.stage is Stage.SOUND] == [0, 0, 1, 2]
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_cancel_is_seen_while_the_sound_is_made(runner: Runner, tmp_path: Path) -> None:
    seen: list[Progress] = []

    def is_cancelled() -> bool:
        return bool(seen) and seen[-1].stage is Stage.SOUND

    with pytest.raises(GenerationCancelled):
        runner.run(HEARD, tmp_path / "a.mp4", Callbacks(on_progress=seen.append, cancelled=is_cancelled))

    assert list(tmp_path.iterdir()) == []
    assert runner.run(HEARD, tmp_path / "a.mp4").has_audio


def test_a_sound_that_fails_leaves_a_silent_video_with_a_warning(
    processor: str, weights_folder: Path, sound: SoundSpec, tmp_path: Path
) -> None:
    missing = dataclasses.replace(sound, repo=str(tmp_path / "none"))
    runner = Runner.load(ModelSpec("demo", fps=16, sound=missing), weights_folder, "cpu")

    (said,) = warned(runner, HEARD, tmp_path / "a.mp4")

    assert said.startswith("The video is silent. No weights of ")
    assert packets(tmp_path / "a.mp4")
    assert len(samples_of(tmp_path / "a.mp4")) == 0


def test_a_sound_that_fails_fails_the_video_where_that_is_set(
    processor: str, weights_folder: Path, sound: SoundSpec, tmp_path: Path
) -> None:
    missing = dataclasses.replace(sound, repo=str(tmp_path / "none"), if_failed=SoundFailure.FAIL)
    runner = Runner.load(ModelSpec("demo", fps=16, sound=missing), weights_folder, "cpu")

    with pytest.raises(SoundError, match="No weights of "):
        runner.run(HEARD, tmp_path / "a.mp4")

    assert list(tmp_path.iterdir()) == []


def test_a_video_that_must_be_heard_fails_before_it_is_made(
    processor: str, weights_folder: Path, sound: SoundSpec, tmp_path: Path
) -> None:
    missing = dataclasses.replace(sound, repo=str(tmp_path / "none"), if_failed=SoundFailure.FAIL)
    runner = Runner.load(ModelSpec("demo", fps=16, sound=missing), weights_folder, "cpu")
    seen: list[Progress] = []

    with pytest.raises(SoundError, match="No weights of "):
        runner.run(HEARD, tmp_path / "a.mp4", Callbacks(on_progress=seen.append))

    assert seen == []
    assert runner.run(SILENT, tmp_path / "a.mp4").has_audio is False


@pytest.mark.parametrize("where", ["write_wave", "mux"])
def test_a_sound_that_cannot_be_written_leaves_a_silent_video(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device") if where == "write_wave" else EncodingError("no room")

    runner.run(SILENT, tmp_path / "silent.mp4")
    monkeypatch.setattr(f"pipelines.stages.writing.video_writer.{where}", fail)
    said: list[str] = []

    made = runner.run(HEARD, tmp_path / "a.mp4", Callbacks(on_warnings=said.extend))

    assert made.has_audio is False
    assert [sentence.startswith("The video is silent. ") for sentence in said] == [True]
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "silent.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "silent.mp4"]


def test_a_closed_runner_holds_no_model_for_sounds(
    processor: str, weights_folder: Path, sound: SoundSpec, tmp_path: Path
) -> None:
    runner = Runner.load(ModelSpec("demo", fps=16, sound=sound), weights_folder, "cpu")
    runner.run(HEARD, tmp_path / "a.mp4")
    held = runner._sound
    assert held is not None
    assert held._pipe is not None

    runner.close()

    assert held._pipe is None


def test_a_video_longer_than_the_model_makes_ends_in_silence(
    processor: str, weights_folder: Path, sound: SoundSpec, tmp_path: Path
) -> None:
    short = dataclasses.replace(sound, max_seconds=0.25)
    runner = Runner.load(ModelSpec("demo", fps=16, sound=short), weights_folder, "cpu")

    (said,) = warned(runner, dataclasses.replace(HEARD, num_frames=17), tmp_path / "a.mp4")

    assert "at most 0.25 seconds" in said
    heard = samples_of(tmp_path / "a.mp4")
    assert np.abs(heard[: RATE // 5]).max() > 0.01
    assert np.abs(heard[RATE // 2 :]).max() < 1e-3


def test_an_extended_video_is_heard_as_a_whole(runner: Runner, tmp_path: Path) -> None:
    runner.run(SILENT, tmp_path / "first.mp4")

    continued = dataclasses.replace(HEARD, image_mode=ImageMode.FIRST_FRAME)
    runner.run(continued, tmp_path / "both.mp4", extends=tmp_path / "first.mp4")

    heard = samples_of(tmp_path / "both.mp4")
    assert 0 <= len(heard) - round(17 / 16 * RATE) < 2048
    assert np.abs(heard[-RATE // 8 :]).max() > 0.01


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"audio_prompt": "wind"}, "audio_prompt"),
        ({"generate_audio": True, "audio": "0" * 64}, "generate_audio"),
        ({"generate_audio": 1}, "generate_audio"),
        ({"generate_audio": True, "audio_prompt": 7}, "audio_prompt"),
    ],
)
def test_what_excludes_each_other_is_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(VideoParamsError, match=named):
        VideoParams("an ox", **fields)  # type: ignore[arg-type]
