"""Calibration finds the largest tolerance at which every video is good enough, and prints lines for a model's file."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from pipelines.models.catalogue import BUILT_IN, DEFAULT_MODEL, read_entry
from pipelines.tools.calibrate_step_cache import Trial, choose, main, psnr


def made(*figures: tuple[float, float]) -> list[Trial]:
    return [Trial(tolerance, 0.5, ratio) for tolerance, ratio in figures]


def test_the_largest_tolerance_that_keeps_every_video_is_chosen() -> None:
    run_trials = made((0.1, 40), (0.1, 36), (0.2, 38), (0.2, 35), (0.4, 50), (0.4, 34))

    assert choose(run_trials, 35) == 0.2
    assert choose(run_trials, 30) == 0.4
    assert choose(run_trials, 37) == 0
    # no tolerance above one that is too large is chosen
    assert choose(made((0.1, 40), (0.2, 20), (0.4, 40)), 35) == 0.1


def test_psnr_is_in_decibels_of_the_full_range() -> None:
    black = np.zeros((1, 2, 2, 3), dtype=np.uint8)

    assert psnr(black, black) == float("inf")
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(25)) == pytest.approx(20.17, abs=0.01)


def test_the_demo_is_calibrated_by_one_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle moving right on a white background\n\n", encoding="utf-8")

    options = ["--demo", "--device", "cpu", "--size", "96", "64", "9", "--steps", "12", "--prompts", str(prompts)]
    assert main([*options, "--tolerances", "1e-9", "0.02", "5"]) is None

    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[1:4]}
    assert rows["1e-09"] == ["100%", "inf", "inf"]
    assert int(rows["5"][0].rstrip("%")) < int(rows["0.02"][0].rstrip("%")) < 100
    # a model's file with these lines is valid
    lines = printed[printed.index("[model.step_cache]") :]
    levels = tomllib.loads(lines)["model"]["step_cache"]
    assert levels["balanced"] <= levels["fast"]
    file = tmp_path / "model.toml"
    known = next(path for path in BUILT_IN.glob("*.toml") if read_entry(path).id == DEFAULT_MODEL)
    file.write_text(known.read_text(encoding="utf-8") + "\n" + lines, encoding="utf-8")
    assert read_entry(file).model.step_cache.balanced == levels["balanced"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--demo", "--device", "cpu", "--prompts", "/no/such/file"], "No such file"),
        (["--models-dir", "/no/such/folder"], "no such folder of models"),
    ],
)
def test_an_error_is_returned_as_a_sentence(options: list[str], sentence: str) -> None:
    said = main(options)

    assert isinstance(said, str)
    assert sentence in said


def test_an_unknown_model_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "nobody"]) == 2

    said = capsys.readouterr().err
    assert said.startswith("There is no model 'nobody'. Say which: --model ")
    assert DEFAULT_MODEL in said
