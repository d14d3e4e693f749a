"""Out of memory at any stage: the next smaller plan is tried, and the next video is not affected."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from pipelines.core.errors import DeviceMemoryError, MachineBusyError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.precision import Accuracy, Precision, PrecisionSetting
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import VideoParams
from pipelines.loading.device_plan import choose_plan, read_model_shape
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import GIB, Layout, Machine, MemoryPlan
from pipelines.planning.planner import next_plan, plan
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.oom_fallback import OutOfMemoryFallback
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint

WAN = family_of("WanPipeline")

SPEC = ModelSpec("small", fps=16)
PARAMS = VideoParams("an ox", " ", 64, 96, 9, 3, 5.0, 7)
MACHINE = Machine(24 * GIB, 64 * GIB, (8, 9))

# the function that does each stage's work
STAGES = {
    "loading": "pipelines.loading.load.place_module",
    "encoding": "pipelines.stages.conditioning.text_encoding.PromptEncoder.encode",
    "denoising": "pipelines.runner.generation_stages.denoise",
    "decoding": "pipelines.stages.decoding.decoding._to_rgb",
}


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets plans be made for a GPU, and carries them out on the CPU."""

    def machine(
        _device: str,
        limit: int | None = None,
        precision: PrecisionSetting = PrecisionSetting.AUTO,
        accuracy: Accuracy = Accuracy.HIGH,
    ) -> Machine:
        memory = MACHINE.device_memory if limit is None else min(limit, MACHINE.device_memory)
        return replace(MACHINE, device_memory=memory, precision=precision, accuracy=accuracy)

    monkeypatch.setattr("pipelines.runner.oom_fallback.current_machine", machine)
    monkeypatch.setattr(
        "pipelines.runner.oom_fallback.plan_for_device",
        lambda spec, folder, device, limit: choose_plan(
            read_model_shape(spec, folder), spec.sizes, machine(device, limit, spec.precision, spec.accuracy)
        ),
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder for converted weights and learned limits."""
    return tmp_path / "cache"


@pytest.fixture
def run_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Lets a stage run out of memory a number of times."""

    def arrange(stage: str, times: int) -> None:
        original, left = resolve_name(STAGES[stage]), iter(range(times))

        def fail_first(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is not None:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return original(*args, **kwargs)

        monkeypatch.setattr(STAGES[stage], fail_first)

    return arrange


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Layout]]:
    """The layouts with which the model was loaded, in order."""
    seen: list[Layout] = []
    load = Runner.load.__func__  # type: ignore[attr-defined]

    def noting(cls: type[Runner], *args: Any) -> Runner:
        seen.append(args[4])
        return load(cls, *args)

    monkeypatch.setattr(Runner, "load", classmethod(noting))
    yield seen


def fitting_exactly(wan21: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model of one size, on a machine whose device has just the memory that its plan needs."""
    size = (PARAMS.width, PARAMS.height, PARAMS.num_frames)
    spec, shape = replace(SPEC, sizes=(size,)), WAN.read_shape(wan21)
    enough = plan(shape, Geometry.fit(*size, shape.grid), MACHINE).device_peak
    monkeypatch.setattr("tests.pipelines.runner.test_oom_fallback.MACHINE", replace(MACHINE, device_memory=enough))
    return spec


@pytest.mark.parametrize("stage", STAGES)
def test_the_next_smaller_plan_makes_the_video(
    stage: str, wan21: Path, tmp_path: Path, cache: Path, run_out: Callable[[str, int], None], layouts: list[Layout]
) -> None:
    run_out(stage, 2)
    fallback = OutOfMemoryFallback.load(SPEC, wan21, "cpu", cache=cache)

    video = fallback.render(PARAMS, tmp_path / "video.mp4").finish()

    assert video.path.is_file()
    assert len({layout.name for layout in layouts}) == len(layouts) == 3
    assert fallback.fingerprint["plan"] == layouts[-1].name != layouts[0].name
    fresh = Runner.load(SPEC, wan21, "cpu", lambda *_: None, layouts[-1], cache)
    again = fallback.render(PARAMS, tmp_path / "again.mp4").finish().path.read_bytes()
    assert again == video.path.read_bytes() == fresh.run(PARAMS, tmp_path / "fresh.mp4").path.read_bytes()


def test_denoised_latents_survive_a_fallback_while_decoding(
    wan21: Path, tmp_path: Path, cache: Path, run_out: Callable[[str, int], None], layouts: list[Layout]
) -> None:
    run_out("decoding", 1)
    fallback = OutOfMemoryFallback.load(SPEC, wan21, "cpu", cache=cache)
    seen: list[Progress] = []
    checkpoint = Checkpoint(tmp_path / "half.ckpt", 1000.0)

    video = fallback.render(PARAMS, tmp_path / "video.mp4", Callbacks(seen.append, checkpoint=checkpoint)).finish()

    assert layouts[0].name != layouts[1].name
    assert [report.step for report in seen if report.stage is Stage.DENOISE] == [0, 1, 2, 3, 3]
    fresh = Runner.load(SPEC, wan21, "cpu", lambda *_: None, layouts[1], cache)
    assert video.path.read_bytes() == fresh.run(PARAMS, tmp_path / "fresh.mp4").path.read_bytes()


def test_a_fallback_is_remembered_for_the_gpu(
    wan21: Path,
    tmp_path: Path,
    cache: Path,
    run_out: Callable[[str, int], None],
    layouts: list[Layout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = fitting_exactly(wan21, monkeypatch)
    run_out("denoising", 2)

    OutOfMemoryFallback.load(spec, wan21, "cpu", cache=cache).render(PARAMS, tmp_path / "video.mp4").finish()
    names = [layout.name for layout in layouts]
    assert len(set(names)) == 3

    assert OutOfMemoryFallback.load(spec, wan21, "cpu", cache=cache).fingerprint["plan"] == names[2]
    assert OutOfMemoryFallback.load(spec, wan21, "cpu", cache=tmp_path / "other").fingerprint["plan"] == names[0]


def test_memory_of_other_processes_does_not_lower_the_gpus_limit(
    wan21: Path, tmp_path: Path, cache: Path, run_out: Callable[[str, int], None], layouts: list[Layout]
) -> None:
    run_out("denoising", 1)
    OutOfMemoryFallback.load(SPEC, wan21, "cpu", cache=cache).render(PARAMS, tmp_path / "video.mp4").finish()
    assert layouts[0] != layouts[1]

    assert OutOfMemoryFallback.load(SPEC, wan21, "cpu", cache=cache).fingerprint["plan"] == layouts[0].name


def test_a_card_that_others_hold_teaches_no_limit(
    wan21: Path,
    tmp_path: Path,
    cache: Path,
    run_out: Callable[[str, int], None],
    layouts: list[Layout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = fitting_exactly(wan21, monkeypatch)
    monkeypatch.setattr("pipelines.runner.oom_fallback.is_held", lambda _: True)
    run_out("denoising", 2)

    OutOfMemoryFallback.load(spec, wan21, "cpu", cache=cache).render(PARAMS, tmp_path / "video.mp4").finish()

    assert len(set(layouts)) == 3
    assert OutOfMemoryFallback.load(spec, wan21, "cpu", cache=cache).fingerprint["plan"] == layouts[0].name


@pytest.mark.parametrize("stage", ["loading", "denoising"])
def test_no_plan_left_since_others_took_the_memory_is_an_error_of_its_own(
    stage: str,
    wan21: Path,
    tmp_path: Path,
    cache: Path,
    run_out: Callable[[str, int], None],
    layouts: list[Layout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(*_: object) -> None:
        raise MachineBusyError("Other programs hold the memory.")

    def lower(*args: Any) -> MemoryPlan | None:
        # after the first fallback there is none
        return next_plan(*args) if len(layouts) == 1 else None

    fallback = OutOfMemoryFallback(SPEC, wan21, "cpu", cache=cache)
    monkeypatch.setattr("pipelines.runner.oom_fallback.next_plan", lower)
    run_out(stage, 2)

    with monkeypatch.context() as held:
        held.setattr("pipelines.runner.oom_fallback.check_others", busy)
        with pytest.raises(MachineBusyError):
            fallback.render(PARAMS, tmp_path / "video.mp4").finish()

    assert fallback.render(PARAMS, tmp_path / "video.mp4").finish().path.is_file()
    assert layouts[0] == layouts[2] != layouts[1]


def test_a_library_that_finds_no_memory_counts_like_torch(
    wan21: Path, tmp_path: Path, cache: Path, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, errors = (
        resolve_name(STAGES["denoising"]),
        [torch.AcceleratorError("CUDA error: out of memory\nSearch …")],
    )

    def fail_first(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return original(*args, **kwargs)

    monkeypatch.setattr(STAGES["denoising"], fail_first)

    video = OutOfMemoryFallback.load(SPEC, wan21, "cpu", cache=cache).render(PARAMS, tmp_path / "video.mp4").finish()

    assert video.path.is_file()
    assert len(layouts) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_no_plan_left_is_an_error_that_does_not_affect_the_next_generation(
    stage: str,
    wan21: Path,
    tmp_path: Path,
    cache: Path,
    run_out: Callable[[str, int], None],
    layouts: list[Layout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # large steps between plans, so that there are few
    monkeypatch.setattr("pipelines.planning.planner.NEXT_PEAK_SHARE", 0.6)
    fallback = OutOfMemoryFallback(SPEC, wan21, "cpu", cache=cache)
    asked = (PARAMS.width, PARAMS.height, PARAMS.num_frames)
    fallbacks = plans_below(wan21, fallback, SPEC.sizes[-1] if stage == "loading" else asked)
    run_out(stage, fallbacks + 1)

    with pytest.raises(DeviceMemoryError, match=r"ran out of memory, even with the plan that needs least\. .*fit\."):
        fallback.render(PARAMS, tmp_path / "video.mp4").finish()

    assert not list(tmp_path.glob("*.mp4*"))
    assert len(layouts) == fallbacks + 1
    fresh = Runner.load(SPEC, wan21, "cpu", lambda *_: None, layouts[0], cache)
    after = fallback.render(PARAMS, tmp_path / "after.mp4").finish().path.read_bytes()
    assert layouts[-1] == layouts[0]
    assert after == fresh.run(PARAMS, tmp_path / "fresh.mp4").path.read_bytes()


def plans_below(folder: Path, fallback: OutOfMemoryFallback, size: tuple[int, int, int]) -> int:
    """The number of smaller plans than the current one."""
    shape = WAN.read_shape(folder)
    geometry = Geometry.fit(*size, shape.grid)
    chosen, fallbacks = fallback._plan, 0
    while chosen is not None and (chosen := next_plan(shape, geometry, MACHINE, chosen)) is not None:
        fallbacks += 1
    return fallbacks


def test_without_a_plan_running_out_of_memory_is_an_error(
    wan21: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, run_out: Callable[[str, int], None]
) -> None:
    monkeypatch.setattr("pipelines.runner.oom_fallback.plan_for_device", lambda *_: None)
    run_out("denoising", 1)
    fallback = OutOfMemoryFallback.load(SPEC, wan21, "cpu", cache=cache)

    with pytest.raises(DeviceMemoryError, match="A smaller size or fewer frames may fit"):
        fallback.render(PARAMS, tmp_path / "video.mp4").finish()
    assert fallback.render(PARAMS, tmp_path / "video.mp4").finish().path.is_file()


def test_the_fallback_keeps_the_set_precision(
    weights_folder: Path, tmp_path: Path, cache: Path, run_out: Callable[[str, int], None], layouts: list[Layout]
) -> None:
    run_out("denoising", 2)
    spec = replace(SPEC, precision=PrecisionSetting.FP8)

    OutOfMemoryFallback.load(spec, weights_folder, "cpu", cache=cache).render(PARAMS, tmp_path / "video.mp4").finish()

    assert len(layouts) == len(set(layouts)) == 3
    assert {layout.precision for layout in layouts} == {Precision.FP8_MATMUL}


@pytest.mark.parametrize("accuracy", Accuracy)
def test_the_real_model_falls_back_to_slices_and_to_a_bf16_stream(accuracy: Accuracy) -> None:
    entry = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
    assert entry.model.shape is not None
    shape = WAN.shape(entry.model.shape)
    machine = Machine(12 * GIB, 64 * GIB, (8, 9), PrecisionSetting.BF16, accuracy)
    geometry = Geometry.fit(832, 480, 81, shape.grid)
    chosen: MemoryPlan | None = plan(shape, geometry, machine)
    tried: list[tuple[Accuracy, bool]] = []
    while chosen is not None:
        tried.append((chosen.layout.accuracy, chosen.layout.slice_tokens > 0))
        chosen = next_plan(shape, geometry, machine, chosen)

    ladder = [(Accuracy.HIGH, False), (Accuracy.HIGH, True), (Accuracy.STANDARD, True)]
    if accuracy is Accuracy.STANDARD:
        ladder = [(Accuracy.STANDARD, False), (Accuracy.STANDARD, True)]
    assert list(dict.fromkeys(tried)) == ladder


def test_the_real_model_falls_back_to_streaming() -> None:
    entry = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
    assert entry.model.shape is not None
    shape, machine = WAN.shape(entry.model.shape), Machine(80 * GIB, 96 * GIB, (9, 0))
    geometry = Geometry.fit(1280, 720, 81, shape.grid)
    chosen: MemoryPlan | None = plan(shape, geometry, machine)
    peaks = []
    while chosen is not None:
        peaks.append(chosen.device_peak)
        chosen = next_plan(shape, geometry, machine, chosen)

    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 45 * GIB
    assert peaks[-1] < 11 * GIB
    assert 4 <= len(peaks) <= 24
