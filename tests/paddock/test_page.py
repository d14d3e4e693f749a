"""docs/client.md: its code runs as printed, against a real server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import paddock
from tests.support.server_process import PATIENCE, ServerProcess
from tests.support.video import read_video

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_pages_code_runs_as_printed(tenant: ServerProcess, key: str, tmp_path: Path) -> None:
    program = "\n".join(BLOCKS).replace("http://127.0.0.1:8000", tenant.url)

    ended = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PADDOCK_URL": tenant.url, "PADDOCK_API_KEY": key},
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )

    assert ended.returncode == 0, ended.stderr
    for printed in (
        "succeeded 7",
        "A red circle rising 1 succeeded\nA red circle rising 2 succeeded\nA duck at sunset 1 succeeded",
        "processing ",
        "The generation failed: height must be an integer between 1 and 720",
    ):
        assert printed in ended.stdout
    videos = list(tmp_path.glob("*.mp4"))
    assert len(videos) == 5
    for video in videos:
        assert read_video(video).shape == (9, 128, 128, 3)


def test_the_page_names_every_error_and_method() -> None:
    errors = {name for name in paddock.__all__ if name.endswith("Error")}
    # rare errors, which the page does not list
    rare = {"MethodNotAllowedError", "UnsupportedMediaTypeError"}
    assert errors - rare <= set(re.findall(r"\w+Error", PAGE))
    methods = {
        name for name in vars(paddock.Client) if not name.startswith("_") and callable(getattr(paddock.Client, name))
    }
    assert methods - {"get"} <= set(re.findall(r"client\.(\w+)", PAGE)) | {"wait"}
