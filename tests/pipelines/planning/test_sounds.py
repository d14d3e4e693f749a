"""Plans with a model for sounds: it has a stage of its own, and is kept in host memory."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.loading.device_plan import read_model_shape
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import GIB, Machine
from pipelines.planning.memory_model import SOUND_BYTES
from pipelines.planning.planner import plan
from tests.support.models.sounds import sound_spec

ENTRY = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
assert ENTRY.model.shape is not None
SILENT = family_of("WanPipeline").shape(ENTRY.model.shape)
HEARD = replace(SILENT, sound_parameters=850_000_000)
LARGEST = Geometry.fit(832, 480, 81, SILENT.grid)


@pytest.mark.parametrize("card", [8, 12, 24, 80])
def test_a_sound_has_room_beside_what_stays_on_the_card(card: int) -> None:
    machine = Machine(card * GIB, 64 * GIB, (8, 9))

    silent, heard = (plan(shape, LARGEST, machine) for shape in (SILENT, HEARD))

    assert "making the sound" not in silent.stage_peaks
    assert heard.fits(machine)
    assert heard.stage_peaks["making the sound"] >= 2 * HEARD.sound_parameters + SOUND_BYTES
    # of the card's memory it takes what denoising needs anyway: the plan is the same
    assert heard.layout == silent.layout
    assert heard.host_peak == silent.host_peak + 2 * HEARD.sound_parameters


def test_only_weights_that_are_here_are_planned_for(weights_folder: Path, tmp_path: Path) -> None:
    sound = sound_spec(tmp_path / "sound", "StableAudio3Pipeline")

    shapes = [
        read_model_shape(ModelSpec("demo", fps=16, sound=each), weights_folder)
        for each in (None, replace(sound, repo=str(tmp_path / "none")), sound)
    ]

    assert [bool(shape.sound_parameters) for shape in shapes] == [False, False, True]
    assert shapes[0] == replace(shapes[2], sound_parameters=0)
