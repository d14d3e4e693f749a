"""`paddock pull` of a model for sounds: its licence is shown, and agreed to before guarded weights are downloaded."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.models.catalogue import BUILT_IN
from pipelines.models.sound.catalogue import read_sound
from pipelines.stages.audio.sound_model import SoundModel
from tests.support.hub import Hub
from tests.support.models.serving import SOUND
from tests.support.models.sounds import stable_audio_3_folder
from tests.support.server_process import PATIENCE


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with small weights, and a file of the catalogue that names them."""
    sounds = tmp_path / "models" / "sounds"
    sounds.mkdir(parents=True)
    text = (BUILT_IN / "sounds" / f"{SOUND}.toml").read_text(encoding="utf-8")
    (sounds / "mine.toml").write_text(
        text.replace('repo = "stabilityai/stable-audio-3-small-sfx"', f'repo = "{Hub.repo}"')
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PADDOCK_MODELS_DIR", str(tmp_path / "models"))
    with Hub(stable_audio_3_folder(tmp_path / "repository")) as hub:
        yield hub


def pull(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "server.cli", "pull", "--model", SOUND, *args]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )


def test_guarded_weights_need_consent_and_are_complete_with_it(hub: Hub, tmp_path: Path) -> None:
    refused = pull("--from", hub.url)

    assert refused.returncode == 2, refused.stderr
    assert "Stability AI Community License" in refused.stdout
    assert "https://stability.ai/" in refused.stdout
    assert "--accept-licence" in refused.stderr
    assert hub.sent() == 0

    done = pull("--from", hub.url, "--accept-licence")

    assert done.returncode == 0, done.stderr
    assert "The weights are complete" in done.stdout
    again = pull("--from", hub.url)
    assert again.returncode == 0, again.stderr
    assert "licence" not in again.stdout
    # the folder that was downloaded is one that a sound can be made with
    spec = read_sound(tmp_path / "models" / "sounds" / "mine.toml")
    folder = next((tmp_path / "home" / "hub").glob("models--*/snapshots/*"))
    samples, rate = SoundModel(spec, "cpu", folder).make("an ox", 0.5, 7)
    assert samples.shape == (2, rate // 2)


def test_a_model_that_nobody_knows_is_refused(hub: Hub) -> None:
    command = [sys.executable, "-P", "-m", "server.cli", "pull", "--model", "no-sound"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == 2
    assert "Model not found: no-sound" in done.stderr
