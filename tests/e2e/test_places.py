"""A server where much is missing: a user's name and home, temporary folders, shared memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Typed
from tests.support.places import sealed, without_a_user
from tests.support.server_process import ServerProcess
from tests.support.video import read_video

Start = Callable[..., ServerProcess]


@pytest.mark.parametrize("warm_workers", ["on", "off"])
def test_only_the_data_directory_must_be_writable_and_no_user_be_known(
    start_server: Start, tmp_path: Path, warm_workers: str
) -> None:
    (tmp_path / "data").mkdir()
    server = start_server(prefix=(*sealed(tmp_path / "data"), *without_a_user()), warm_workers=warm_workers)

    assert read_video(server.video(server.enqueue())).shape == (5, 64, 64, 3)
    log = server.log_text()
    assert "WARNING" not in log.replace("WARNING paddock: DEMO WEIGHTS", "")
    assert "ERROR" not in log
    assert "without a template" not in log
    assert not (tmp_path / "data" / "~").exists()


COMPILING = """
import sys
from pathlib import Path

from server.runtime.environment import empty_temporary, use_data_dir

data, weights = map(Path, sys.argv[1:])
use_data_dir(data)
empty_temporary(data)

from pipelines.core.model import Compile, ModelSpec
from pipelines.runner import compilation
from pipelines.runner.runner import Runner
from server.engine.interface import WorkerOptions
from server.engine.worker.folders import use_folders

folders = dict.fromkeys(("artifacts", "checkpoints", "previews", "inputs"), str(data))
use_folders(WorkerOptions(device="cpu", cache=str(data / "cache"), temporary=str(data / "tmp" / "cpu"), **folders))
spec = ModelSpec("random", fps=16, sizes=((96, 64, 5),), compile=Compile.ON)
started = []


class Process:
    is_running = True

    def __init__(self, argument, cache):
        started.append(argument)


# the work of the process in the background, which gets no time on a busy machine
compilation.CompilerProcess = Process
runner = Runner.load(spec, weights, "cpu", cache=data / "cache")
compilation.main(started[0])
runner.adopt_compiled()
print(runner.fingerprint["compiled"])
"""


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_blocks_are_compiled_there_too(weights_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    ended = subprocess.run(
        [*sealed(data), *without_a_user(), sys.executable, "-P", "-c", COMPILING, data, weights_folder],
        capture_output=True,
        check=False,
        text=True,
    )

    assert ended.stdout.split() == ["blocks"], ended.stderr
    assert list((data / "cache" / "compiled").glob("block-*/entry.json"))


def test_a_start_removes_the_temporary_files_of_the_last_server_unless_it_runs(
    start_server: Start, typed: Typed, tmp_path: Path
) -> None:
    left = tmp_path / "data" / "tmp" / "left"
    left.mkdir(parents=True)
    server = start_server()
    assert not left.exists()

    left.mkdir()
    refused = typed("serve", "--demo", "--data-dir", str(server.data_dir), "--port", "0")
    assert refused.returncode == 2
    assert left.exists()


SORTING = """
import sys
from server.cli.main import main

try:
    main()
except SystemExit as ended:
    print(ended.code)
import sqlite3

numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)"
database = sqlite3.connect(f"{sys.argv[-1]}/paddock.db")
print(len(database.execute(f"{numbers} SELECT randomblob(1000) AS b FROM n ORDER BY b").fetchall()))
"""
"""A sort that SQLite does not do in memory."""


@pytest.mark.parametrize(("command", "status"), [(("key", "list"), 0), (("serve", "--demo"), 2)], ids=["key", "serve"])
def test_the_database_has_a_temporary_folder(tmp_path: Path, command: tuple[str, ...], status: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    ended = subprocess.run(
        [
            *sealed(data),
            "env",
            "PADDOCK_PRELOAD=nope",
            sys.executable,
            "-P",
            "-c",
            SORTING,
            *command,
            "--data-dir",
            data,
        ],
        capture_output=True,
        check=False,
        text=True,
    )

    assert ended.stdout.split()[-2:] == [str(status), "60000"], ended.stderr


@pytest.mark.parametrize("command", ["serve --demo", "demo --once", "key list", "pull"])
def test_without_a_home_folder_a_data_directory_is_asked_for(tmp_path: Path, command: str) -> None:
    ended = subprocess.run(
        [*without_a_user(), sys.executable, "-P", "-m", "server.cli", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )

    assert ended.returncode == 2, ended.stderr
    assert "There is no home folder for ~/.paddock" in ended.stderr
    assert "--data-dir" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "in a file", "loop", "link to nowhere"])
def test_what_is_no_folder_is_no_data_directory(tmp_path: Path, typed: Typed, kind: str) -> None:
    data = tmp_path / "data"
    match kind:
        case "loop":
            data.symlink_to(data)
        case "link to nowhere":
            data.symlink_to(tmp_path / "missing")
        case _:
            data.write_text("mine")
            data = data / "data" if kind == "in a file" else data

    for command in (("serve", "--demo", "--port", "0"), ("key", "list")):
        ended = typed(*command, "--data-dir", str(data))
        assert ended.returncode == 2
        assert f"The data directory {data} cannot be used: " in ended.stderr
        assert "Choose another with --data-dir." in ended.stderr
        assert "Traceback" not in ended.stderr
    checked = typed("doctor", "--demo", "--data-dir", str(data))
    assert checked.returncode == 1
    assert f"{data} is not writable: " in checked.stdout
    assert "Traceback" not in checked.stderr


def test_a_deleted_current_folder_is_a_sentence_or_no_matter(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for args, status, sentence in (
        (["key", "list", "--data-dir", str(tmp_path / "data")], 0, ""),
        (
            ["key", "list", "--data-dir", "data"],
            2,
            "data_dir: The current folder has been deleted: write the",
        ),
        (["generate", "an ox"], 1, "The current folder has been deleted: write the whole path of video.mp4"),
    ):
        gone.mkdir()
        program = f'rmdir {gone}; exec {sys.executable} -P -m server.cli "$@"'
        ended = subprocess.run(
            ["sh", "-c", program, "sh", *args], cwd=gone, capture_output=True, check=False, text=True
        )
        assert ended.returncode == status
        assert sentence in ended.stderr
        assert "Traceback" not in ended.stderr
