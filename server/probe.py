"""Asking for this machine's CUDA devices, in a process of its own: a driver that crashes takes only that along."""

import json
import subprocess
import sys
from typing import Any


class ProbeError(Exception):
    """The devices cannot be told; `str()` is the sentence."""


def cuda_devices() -> list[dict[str, Any]]:
    """What `pipelines.devices` found, a JSON object each; raises ProbeError."""
    probe = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines.devices"], stdout=subprocess.PIPE, check=False, text=True
    )
    if probe.returncode != 0:
        raise ProbeError("Looking for CUDA devices failed. The error is above.")
    found: list[dict[str, Any]] | str = json.loads(probe.stdout)
    if isinstance(found, str):
        raise ProbeError(found)
    return found
