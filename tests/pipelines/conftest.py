"""Loaded pipelines, one of each VAE layout, shared by the tests that only run them."""

from pathlib import Path

import pytest

from pipelines.runner import Runner
from pipelines.spec import ModelSpec
from tests.pipelines.wan21 import wan21_folder


@pytest.fixture(scope="session")
def wan21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of Wan2.1 itself: 8x VAE, patches of 2x2, several weight files."""
    return wan21_folder(tmp_path_factory.mktemp("wan21") / "weights")


@pytest.fixture(scope="session")
def demo_runner(weights_folder: Path) -> Runner:
    """The demo weights on the CPU."""
    return Runner.load(ModelSpec("demo", fps=16), weights_folder, "cpu")


@pytest.fixture(scope="session")
def wan21_runner(wan21: Path) -> Runner:
    """The small Wan2.1 on the CPU."""
    return Runner.load(ModelSpec("wan21", fps=16), wan21, "cpu")
