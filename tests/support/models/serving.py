"""Folders of models for a server, with small random weights under a published model's id."""

import re
from collections.abc import Mapping
from pathlib import Path

from pipelines.models.catalogue import BUILT_IN
from tests.support.models.sounds import stable_audio_3_folder
from tests.support.models.wan21 import wan21_folder
from tests.support.models.wan22 import ti2v_5b_folder
from tests.support.models.wan_image import flf2v_folder, i2v_folder
from tests.support.server_process import ServerProcess

T2V = "wan-ai-wan2-1-t2v-14b-diffusers"
SOUND = "stable-audio-3-small-sfx"
TI2V = "wan-ai-wan2-2-ti2v-5b-diffusers"
I2V = "wan-ai-wan2-1-i2v-14b-480p-diffusers"
FLF2V = "wan-ai-wan2-1-flf2v-14b-720p-diffusers"


def ti2v_models(folder: Path) -> Path:
    """A folder of models in which the 5B model has small random weights. They take an image."""
    return _models(folder, {"wan2.2-ti2v-5b": ti2v_5b_folder(folder / "weights")})


def image_models(folder: Path) -> Path:
    """A folder of models in which those that take one or two images, and the one for text that these answer for, have
    small random weights.
    """
    weights = {
        "wan2.1-t2v-14b": wan21_folder,
        "wan2.1-i2v-14b-480p": i2v_folder,
        "wan2.1-flf2v-14b-720p": flf2v_folder,
        "wan2.2-ti2v-5b": ti2v_5b_folder,
    }
    return _models(folder, {name: write(folder / name) for name, write in weights.items()})


def sound_models(folder: Path) -> Path:
    """A folder of models in which one for text, and the one that makes its sounds, have small random weights."""
    models = _models(folder, {"wan2.1-t2v-14b": wan21_folder(folder / "video")})
    weights = stable_audio_3_folder(folder / "sound")
    (models / "sounds").mkdir()
    name = f"sounds/{SOUND}.toml"
    (models / name).write_text(_with_weights(name, weights), encoding="utf-8")
    return models


def _models(folder: Path, weights: Mapping[str, Path]) -> Path:
    """The models of these files of the catalogue, with other weights."""
    models = folder / "models"
    models.mkdir()
    for name, path in weights.items():
        (models / f"{name}.toml").write_text(_with_weights(f"{name}.toml", path), encoding="utf-8")
    return models


def _with_weights(name: str, path: Path) -> str:
    text = (BUILT_IN / name).read_text(encoding="utf-8")
    return re.sub(r'^repo = ".*"', f'repo = "{path}"', text, flags=re.MULTILINE)


def real_server(data_dir: Path, models: Path, **settings: str) -> ServerProcess:
    """A server of such models on the CPU."""
    return ServerProcess(data_dir, "--no-demo", "--device", "cpu", demo=False, models_dir=str(models), **settings)


ti2v_server = real_server
