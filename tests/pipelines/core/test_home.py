"""Paths of a user who may have no home folder."""

import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from pipelines.core.errors import NoHomeError, WeightsNotFoundError
from pipelines.core.home import expanded, has_home
from pipelines.core.model import ModelSpec
from pipelines.hub.local import locate, locate_file


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has a home folder."""

    def unknown(*_: object) -> NoReturn:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def test_a_path_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/here")

    assert has_home()
    assert expanded("~/models") == Path("/here/models")
    assert expanded(Path("models")) == Path("models")


@pytest.mark.parametrize("path", ["~", "~/models", "~somebody/models"])
def test_without_a_home_folder_the_error_names_option_and_path(homeless: None, path: str) -> None:
    assert not has_home()
    with pytest.raises(NoHomeError, match=f"^cache: There is no home folder for {path}: write the whole path"):
        expanded(path, "cache")


def test_weights_in_no_home_folder_are_not_found(homeless: None) -> None:
    with pytest.raises(WeightsNotFoundError, match="repo: There is no home folder for ~/wan"):
        locate(ModelSpec("~/wan", fps=16))
    with pytest.raises(WeightsNotFoundError, match="repo: There is no home folder for ~/wan"):
        locate_file("~/wan", "lora.safetensors")
