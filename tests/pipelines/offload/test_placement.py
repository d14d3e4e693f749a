"""Every mechanism of a plan on small weights: equal arithmetic gives the same video."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.core.errors import GenerationCancelled, WeightFormatError
from pipelines.core.model import ModelSpec
from pipelines.core.precision import Precision
from pipelines.core.request import VideoParams
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from tests.pipelines.conftest import both_dtypes
from tests.support.video import psnr

pytestmark = both_dtypes

PARAMS = VideoParams("an ox by a lake", " ", 64, 96, 9, 4, 5.0, 7)


STREAMS = (Residence.STREAMED, Residence.DISK)


@pytest.fixture
def laid_out(tmp_path: Path) -> Callable[[Path, Layout], Runner]:
    """Loads a pipeline by a layout, with the CPU as both host and device."""

    def load(folder: Path, layout: Layout) -> Runner:
        return Runner.load(ModelSpec("small", fps=16), folder, "cpu", layout=layout, cache=tmp_path / "cache")

    return load


def quality(exact: Runner, other: Runner, folder: Path) -> float:
    """The PSNR in dB between two runners' videos."""
    one, another = (runner.run(PARAMS, folder / f"{index}.mp4").path for index, runner in enumerate((exact, other)))
    return psnr(one, another)


@pytest.mark.parametrize("weights", ["wan21", "weights_folder"])
def test_streaming_gives_the_same_bytes(
    weights: str, tmp_path: Path, laid_out: Callable[[Path, Layout], Runner], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(weights)
    videos: list[bytes] = []
    mapped: list[bytes] = []
    for transformer, text_encoder, blocks in (
        (Residence.RESIDENT, Residence.RESIDENT, 0),
        (Residence.RESIDENT, Residence.STREAMED, 0),
        (Residence.STREAMED, Residence.DISK, 0),
        (Residence.STREAMED, Residence.RESIDENT, 1),
        (Residence.DISK, Residence.STREAMED, 0),
        (Residence.DISK, Residence.DISK, 1),
    ):
        runner = laid_out(folder, Layout(Precision.BF16, transformer, text_encoder, resident_blocks=blocks))
        # the first pass moves every tensor for the first time
        twice = [runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes() for _ in range(2)]
        (mapped if Residence.DISK in (transformer, text_encoder) else videos).extend(twice)

    assert len(set(videos)) == 1
    # a CPU computes on the mapped file itself, whose alignment may change the rounding
    assert min(psnr(video, videos[0]) for video in mapped) > 40


@pytest.mark.parametrize(
    ("precision", "least"),
    [(Precision.INT8_MATMUL, 25), (Precision.FP8_MATMUL, 25), (Precision.FP8, 25), (Precision.Q4, 20)],
)
def test_quantized_weights_stay_close_in_every_placement(
    precision: Precision,
    least: float,
    weights_folder: Path,
    demo_runner: Runner,
    tmp_path: Path,
    laid_out: Callable[[Path, Layout], Runner],
) -> None:
    resident = laid_out(weights_folder, Layout(precision))
    assert quality(demo_runner, resident, tmp_path) > least

    expected = (tmp_path / "1.mp4").read_bytes()
    for transformer, blocks in product(STREAMS, (0, 1)):
        runner = laid_out(weights_folder, Layout(precision, transformer, resident_blocks=blocks))
        videos = {runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes() for _ in range(2)}
        assert videos == {expected}


@pytest.mark.parametrize(
    ("layout", "maker"),
    [
        (Layout(Precision.Q4, Residence.DISK), "_to_q4"),
        (Layout(Precision.FP8_MATMUL), "quantize"),
        (Layout(Precision.INT8_MATMUL, Residence.DISK), "quantize"),
    ],
)
def test_quantized_weights_are_converted_once(
    layout: Layout,
    maker: str,
    weights_folder: Path,
    tmp_path: Path,
    laid_out: Callable[[Path, Layout], Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = laid_out(weights_folder, layout).run(PARAMS, tmp_path / "first.mp4").path.read_bytes()
    monkeypatch.setattr(f"pipelines.loading.weight_format.{maker}", lambda *_: pytest.fail("it was made before"))

    assert laid_out(weights_folder, layout).run(PARAMS, tmp_path / "again.mp4").path.read_bytes() == expected


def test_a_full_disk_is_an_error_before_anything_is_written(
    weights_folder: Path, tmp_path: Path, laid_out: Callable[[Path, Layout], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.loading.converted_cache.shutil.disk_usage", lambda _: SimpleNamespace(free=10))

    with pytest.raises(WeightFormatError, match=r"transformer .* needs 0\.0 GiB in .*, where 0\.0 GiB is free"):
        laid_out(weights_folder, Layout(Precision.FP8, Residence.DISK))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_full_disk_does_not_stop_plans_that_need_no_disk(
    weights_folder: Path, tmp_path: Path, laid_out: Callable[[Path, Layout], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = laid_out(weights_folder, Layout(Precision.Q4)).run(PARAMS, tmp_path / "kept.mp4").path.read_bytes()
    shutil.rmtree(tmp_path / "cache")

    with monkeypatch.context() as full:
        full.setattr(
            "pipelines.loading.converted_cache.save_file",
            lambda *_: _raise(OSError(errno.ENOSPC, "No space left on device")),
        )
        runner = laid_out(weights_folder, Layout(Precision.Q4))

    assert runner.run(PARAMS, tmp_path / "made.mp4").path.read_bytes() == expected
    assert not [
        path for path in (tmp_path / "cache" / "weights").rglob("*") if path.suffix in (".part", ".safetensors")
    ]


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("residence", STREAMS)
def test_a_cancelled_streamed_run_does_not_affect_the_next(
    residence: Residence, wan21: Path, tmp_path: Path, laid_out: Callable[[Path, Layout], Runner]
) -> None:
    runner = laid_out(wan21, Layout(transformer=residence, text_encoder=residence))
    expected = runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes()
    calls = iter([False, True])

    with pytest.raises(GenerationCancelled):
        runner.run(replace(PARAMS, width=64), tmp_path / "cancelled.mp4", Callbacks(cancelled=lambda: next(calls)))

    assert runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes() == expected


def test_only_a_resident_text_encoder_prefetches(
    wan21: Path, tmp_path: Path, laid_out: Callable[[Path, Layout], Runner]
) -> None:
    asked: list[str] = []

    def upcoming() -> list[str]:
        asked.append("what comes next")
        return asked[-1:]

    for residence in (Residence.STREAMED, Residence.RESIDENT):
        assert asked == []
        runner = laid_out(wan21, Layout(text_encoder=residence))
        runner.run(PARAMS, tmp_path / "video.mp4", Callbacks(upcoming=upcoming))
    assert asked != []
