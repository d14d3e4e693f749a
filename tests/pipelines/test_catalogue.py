"""The models on offer, and what a malformed file is told."""

from pathlib import Path

import pytest

from pipelines.catalogue import BUILT_IN, read_catalogue, read_entry
from pipelines.errors import CatalogueError

MINIMAL = """
[api]
id = "mine"
display_name = "Mine"
summary = "A model"
description = "A model of mine."
created = 1
owned_by = "me"
developer = { name = "me", display_name = "Me" }
parameters = []
[model]
repo = "me/mine"
fps = 16
"""


def test_the_built_in_catalogue_offers_the_14b_model() -> None:
    entry = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]

    assert entry.model.repo == "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    assert entry.model.fps == 16
    assert entry.api.by_name["num_frames"].maximum == 120


def test_a_users_folder_adds_models_and_replaces_those_of_the_same_id(tmp_path: Path) -> None:
    built_in = next(iter(read_catalogue()))
    (tmp_path / "mine.toml").write_text(MINIMAL)
    (tmp_path / "other.toml").write_text(MINIMAL.replace('"mine"', f'"{built_in}"').replace("me/mine", "me/tuned"))

    catalogue = read_catalogue([BUILT_IN, tmp_path])

    assert set(catalogue) == {built_in, "mine"}
    assert catalogue[built_in].model.repo == "me/tuned"


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("fps = 16", "fps = 0", r"model\.fps: .*greater than or equal to 1"),
        ("fps = 16", 'fps = "16"', r"model\.fps: .*valid integer"),
        ("created = 1", "", r"api\.created: Field required"),
        ("created = 1", "created = 1\nprice = 3", r"api\.price: Extra inputs"),
        ("[model]", "[model", "Expected ']'"),
        ("parameters = []", "", r"api\.parameters: Field required"),
        (
            "parameters = []",
            'parameters = [{ name = "p", type = "string", title = "P", description = "", minimum = 1 }]',
            "only an integer or a number has a minimum",
        ),
    ],
)
def test_a_malformed_file_is_named_with_the_key_at_fault(
    tmp_path: Path, before: str, after: str, complaint: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(MINIMAL.replace(before, after))

    with pytest.raises(CatalogueError, match=complaint) as caught:
        read_entry(path)
    assert str(path) in str(caught.value)


def test_two_files_of_a_folder_may_not_share_an_id(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(MINIMAL)
    (tmp_path / "b.toml").write_text(MINIMAL)

    with pytest.raises(CatalogueError, match=r"b\.toml: the id mine is already taken by a\.toml"):
        read_catalogue([tmp_path])


def test_a_missing_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no such folder"):
        read_catalogue([tmp_path / "missing"])
    with pytest.raises(CatalogueError, match="no model file"):
        read_catalogue([tmp_path])
