"""The demo weights: built once, the same everywhere, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import weights
from pipelines.demo import demo_folder, random_weights


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_they_are_a_complete_pipeline_built_once(tmp_path: Path) -> None:
    folder = demo_folder(tmp_path)
    weights.check(folder, "WanPipeline")
    built = folder.stat().st_ctime_ns

    assert demo_folder(tmp_path) == folder
    assert folder.stat().st_ctime_ns == built
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_two_processes_may_build_them_at_the_same_time(tmp_path: Path, weights_folder: Path) -> None:
    program = "import sys, pathlib; from pipelines.demo import demo_folder; demo_folder(pathlib.Path(sys.argv[1]))"
    builders = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]

    assert [builder.wait() for builder in builders] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [random_weights.FOLDER_NAME]
    assert contents(demo_folder(tmp_path)) == contents(weights_folder)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setattr(random_weights, "_build", fail)
    with pytest.raises(OSError, match="disk full"):
        demo_folder(tmp_path)
    assert not list(tmp_path.iterdir())
