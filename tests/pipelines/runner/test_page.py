"""docs/python.md: its code runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.video import read_video

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_pages_code_runs_as_printed(tmp_path: Path) -> None:
    program = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        text=True,
        timeout=240,
    )

    assert ended.returncode == 0, ended.stderr
    assert "circle.mp4 17 16 " in ended.stdout
    assert [line.split()[0] for line in ended.stdout.splitlines() if "(17, 144, 256, 3)" in line] == [
        *("unipc", "dpm++", "euler")
    ]
    assert "denoising 16/16" in ended.stdout
    videos = sorted(tmp_path.glob("*.mp4"))
    assert [video.name for video in videos] == ["circle-1.mp4", "circle-2.mp4", "circle.mp4"]
    assert all(read_video(video).shape == (17, 144, 256, 3) for video in videos)
