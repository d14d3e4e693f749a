"""What Wan's family knows of the published files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.geometry import Geometry
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of

WAN = family_of("WanPipeline")


def test_a_vae_configuration_of_before_wan22_is_read(wan21: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    config = folder / "vae" / "config.json"
    fields = json.loads(config.read_text())
    # the published files of Wan2.1 and of Wan2.2 A14B have neither
    for name in ("scale_factor_spatial", "scale_factor_temporal", "is_residual", "patch_size", "decoder_base_dim"):
        del fields[name]
    config.write_text(json.dumps(fields))

    assert WAN.read_shape(folder) == WAN.read_shape(wan21)


def test_a_timestep_is_stated_for_each_token_where_the_model_has_one() -> None:
    stated = read_catalogue()["wan-ai-wan2-2-ti2v-5b-diffusers"].model.shape
    assert stated is not None
    shape = WAN.shape(stated)
    geometry = Geometry.fit(832, 480, 81, shape.grid)

    assert shape.expand_timesteps
    assert WAN.forward_inputs(shape, geometry, 512)["timestep"] == (1, shape.tokens(geometry))
    assert WAN.forward_inputs(replace(shape, expand_timesteps=False), geometry, 512)["timestep"] == (1,)


def test_a_folder_that_is_incomplete_or_damaged_is_refused_with_its_name(wan21: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    (folder / "transformer" / "config.json").write_text("{")
    with pytest.raises(WeightsNotFoundError, match=r"weights/transformer/config\.json is not valid JSON"):
        WAN.read_shape(folder)

    (folder / "transformer" / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"weights cannot be planned for: .*'patch_size'"):
        WAN.read_shape(folder)
