"""Folders of models for a server, with small random weights under a published model's id."""

from pathlib import Path

from tests.support.models.wan22 import ti2v_5b_folder
from tests.support.server_process import ServerProcess

TI2V = "wan-ai-wan2-2-ti2v-5b-diffusers"


def ti2v_models(folder: Path) -> Path:
    """A folder of models in which the 5B model has small random weights. They take an image."""
    text = (Path(__file__).parents[3] / "configs" / "models" / "wan2.2-ti2v-5b.toml").read_text(encoding="utf-8")
    weights = ti2v_5b_folder(folder / "weights")
    models = folder / "models"
    models.mkdir()
    (models / "mine.toml").write_text(
        text.replace('"Wan-AI/Wan2.2-TI2V-5B-Diffusers"', f'"{weights}"'), encoding="utf-8"
    )
    return models


def ti2v_server(data_dir: Path, models: Path, **settings: str) -> ServerProcess:
    """A server of such models on the CPU."""
    return ServerProcess(data_dir, "--no-demo", "--device", "cpu", demo=False, models_dir=str(models), **settings)
