"""A suspended, killed or interrupted generation continues from its checkpoint and makes the same video."""

import io
import json
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.core.errors import GenerationSuspended, NonFiniteOutputError
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import Sampler, VideoParams
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import FORMAT, Checkpoint
from pipelines.stages.sampling.schedulers import WanUniPC
from tests.pipelines.conftest import both_dtypes
from tests.support.models.wan22 import a14b_folder, ti2v_5b_folder

pytestmark = both_dtypes

PARAMS = VideoParams("an ox by a lake", " ", 64, 96, 5, 6, 5.0, 7)


class Killed(BaseException):
    """Ends a run without any cleanup by its callers."""


class Run:
    """Runs of one generation on one runner, which a test can end at any step."""

    def __init__(self, runner: Runner, folder: Path, params: VideoParams = PARAMS) -> None:
        self.runner, self.folder, self.params = runner, folder, params
        self.path = folder / "half.ckpt"
        self.reports: list[Progress] = []
        self.saved: list[float] = []

    def whole(self) -> bytes:
        """The video of an undisturbed run without a checkpoint."""
        self.runner.run(self.params, self.folder / "whole.mp4")
        return (self.folder / "whole.mp4").read_bytes()

    def killed_at(self, step: int, stage: Stage = Stage.DENOISE, interval: float = 0.0) -> None:
        def report(progress: Progress) -> None:
            if (progress.stage, progress.step) == (stage, step):
                raise Killed

        checkpoint = Checkpoint(self.path, interval)
        with pytest.raises(Killed):
            self.runner.run(self.params, self.folder / "killed.mp4", Callbacks(report, checkpoint=checkpoint))
        assert not list(self.folder.glob("*killed.mp4*"))

    def suspended_at(self, step: int) -> None:
        done = 0

        def report(progress: Progress) -> None:
            nonlocal done
            done = progress.step if progress.stage is Stage.DENOISE else 0

        checkpoint = Checkpoint(self.path, 1000.0, lambda: done >= step, self.saved.append)
        with pytest.raises(GenerationSuspended):
            self.runner.run(self.params, self.folder / "suspended.mp4", Callbacks(report, checkpoint=checkpoint))

    def resumed(self) -> bytes:
        """The video of a run that continues to the end; records its reports."""
        self.reports = []
        path = self.folder / "resumed.mp4"
        callbacks = Callbacks(self.reports.append, checkpoint=Checkpoint(self.path, 1000.0))
        self.runner.run(self.params, path, callbacks)
        return path.read_bytes()

    @property
    def steps_made(self) -> list[int]:
        """The denoising steps of the last run."""
        return [report.step for report in self.reports if report.stage is Stage.DENOISE][1:]


@pytest.fixture
def run(demo_runner: Runner, tmp_path: Path) -> Run:
    return Run(demo_runner, tmp_path)


@pytest.mark.parametrize("step", [1, 2, 5, 6])
def test_a_suspended_generation_ends_in_the_same_video(run: Run, step: int) -> None:
    whole = run.whole()

    run.suspended_at(step)

    assert run.resumed() == whole
    assert run.steps_made == list(range(step + 1, 7))


def test_a_run_goes_on_from_the_file_of_an_earlier_one_and_leaves_it_alone(run: Run) -> None:
    whole = run.whole()
    run.suspended_at(3)
    earlier = run.path.read_bytes()
    own = run.folder / "own.ckpt"

    def resume() -> bytes:
        run.reports = []
        checkpoint = Checkpoint(own, 1000.0, resume_from=run.path)
        run.runner.run(run.params, run.folder / "resumed.mp4", Callbacks(run.reports.append, checkpoint=checkpoint))
        return (run.folder / "resumed.mp4").read_bytes()

    assert resume() == whole
    assert run.steps_made == [4, 5, 6]
    assert run.path.read_bytes() == earlier
    # its own is newer: that of the last step
    assert resume() == whole
    assert run.steps_made == []


def test_a_generation_killed_at_every_step_ends_in_the_same_video(run: Run) -> None:
    whole = run.whole()
    for step in range(2, 7):
        run.killed_at(step)
    run.killed_at(1, Stage.DECODE)

    assert run.resumed() == whole
    assert run.steps_made == []


@pytest.mark.parametrize("make", [a14b_folder, ti2v_5b_folder])
def test_models_with_two_experts_or_expanded_timesteps_resume(make: Callable[[Path], Path], tmp_path: Path) -> None:
    runner = Runner.load(ModelSpec("sibling", fps=16), make(tmp_path / "weights"), "cpu")
    run = Run(runner, tmp_path)
    whole = run.whole()

    run.suspended_at(3)

    assert run.resumed() == whole
    assert run.steps_made == [4, 5, 6]


@pytest.mark.parametrize("sampler", [Sampler.DPM, Sampler.EULER])
def test_other_samplers_resume(run: Run, sampler: Sampler) -> None:
    run.params = replace(run.params, sampler=sampler)
    whole = run.whole()

    run.suspended_at(4)

    assert run.resumed() == whole


def test_a_generation_resumes_after_reloading(run: Run, weights_folder: Path) -> None:
    whole = run.whole()
    run.suspended_at(3)

    run.runner = Runner.load(ModelSpec("demo", fps=16), weights_folder, "cpu")

    assert run.resumed() == whole
    assert run.steps_made == [4, 5, 6]


def test_progress_and_seconds_continue(run: Run) -> None:
    run.suspended_at(4)
    assert len(run.saved) == 1

    run.resumed()

    fractions = [report.fraction for report in run.reports]
    assert fractions == sorted(fractions)
    assert fractions[0] == run.saved[0] > 0.5
    seconds = [report.seconds for report in run.reports]
    assert seconds == sorted(seconds)
    header, _, payload = run.path.read_bytes().partition(b"\n")
    assert json.loads(header)["format"] == FORMAT
    assert payload


def test_a_file_has_the_fields_of_its_format(run: Run) -> None:
    run.suspended_at(4)

    stored = torch.load(io.BytesIO(run.path.read_bytes().partition(b"\n")[2]), weights_only=True)
    # in this order: the bytes depend on it
    assert list(stored) == ["step", "latents", "scheduler", "on_device", "generator", "passes", "seconds"]
    assert FORMAT == 2


def test_the_latents_are_always_saved_before_decoding(run: Run) -> None:
    run.killed_at(5, interval=1000.0)
    assert not run.path.exists()

    run.killed_at(1, Stage.DECODE, interval=1000.0)

    run.resumed()
    assert run.steps_made == []


def spoil_a_byte(run: Run) -> None:
    data = bytearray(run.path.read_bytes())
    data[-100] ^= 1
    run.path.write_bytes(data)


def spoil_the_end(run: Run) -> None:
    run.path.write_bytes(run.path.read_bytes()[:-1])


def spoil_the_format(run: Run) -> None:
    run.path.write_bytes(run.path.read_bytes().replace(f'"format": {FORMAT}'.encode(), b'"format": 0', 1))


def spoil_everything(run: Run) -> None:
    run.path.write_bytes(b"\xff\x00 no checkpoint\n" * 100)


def empty_it(run: Run) -> None:
    run.path.write_bytes(b"")


def make_it_foreign(run: Run) -> None:
    run.params = replace(run.params, seed=8)


def compute_otherwise(run: Run) -> None:
    # on a copy, because other tests use the pipeline
    pipe = copy(run.runner._loaded.pipe)
    pipe.scheduler = deepcopy(pipe.scheduler)
    spec = replace(run.runner.spec, flow_shift={"480p": 2.0, "720p": 2.0})
    run.runner = Runner(spec, replace(run.runner._loaded, pipe=pipe))


@pytest.mark.parametrize(
    "spoil",
    [spoil_a_byte, spoil_the_end, spoil_the_format, spoil_everything, empty_it, make_it_foreign, compute_otherwise],
)
def test_a_checkpoint_that_does_not_match_is_ignored(
    run: Run, spoil: Callable[[Run], None], caplog: pytest.LogCaptureFixture
) -> None:
    run.suspended_at(3)
    spoil(run)

    video = run.resumed()

    assert run.steps_made == [1, 2, 3, 4, 5, 6]
    assert "starts over" in caplog.text
    assert video == run.whole()


def test_a_checkpoint_that_cannot_be_written_does_not_affect_the_video(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.path = run.folder / "no such folder" / "half.ckpt"

    assert run.resumed() == run.whole()
    assert "no checkpoint was saved" in caplog.text


def test_a_partly_written_checkpoint_is_never_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.suspended_at(2)

    def cut(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.core.files.os.fsync", cut)
        run.suspended_at(4)

    assert [path.name for path in run.folder.glob("*half*")] == ["half.ckpt"]
    run.resumed()
    assert run.steps_made == [3, 4, 5, 6]


def test_a_failed_resume_does_not_affect_the_next_generation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.whole()
    run.suspended_at(3)
    transformer = run.runner._loaded.pipe.transformer

    def fail(*_args: object, **_kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(transformer, "forward", fail)
        with pytest.raises(Killed):
            run.resumed()

    assert run.whole() == whole


def test_resuming_from_nan_latents_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = WanUniPC.step

    def broken(self: Any, *args: Any, **options: Any) -> tuple[torch.Tensor]:
        return (step(self, *args, **options)[0] * torch.nan,)

    monkeypatch.setattr(WanUniPC, "step", broken)
    with pytest.raises(NonFiniteOutputError):
        run.runner.run(run.params, run.folder / "nan.mp4", Callbacks(checkpoint=Checkpoint(run.path, 0.0)))

    with pytest.raises(NonFiniteOutputError):
        run.resumed()
