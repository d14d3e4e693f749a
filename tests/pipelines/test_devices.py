"""Looking for devices, from a process of its own."""

import json
import subprocess
import sys


def test_the_probe_prints_json_and_nothing_else() -> None:
    found = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines.devices"], stdout=subprocess.PIPE, check=True, text=True
    )

    for device in json.loads(found.stdout):
        assert device["name"].startswith("cuda:")
        assert device["memory"] > 0
