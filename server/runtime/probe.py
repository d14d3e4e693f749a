"""Questions that a process of its own answers: a driver that crashes, or a heavy library, stays out of this one."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class ProbeError(Exception):
    """What was asked cannot be told; `str()` is the sentence."""


def cuda_devices() -> list[dict[str, Any]]:
    """What `pipelines.planning.devices` found, a JSON object each; raises ProbeError."""
    return _answer("pipelines.planning.devices", otherwise="Looking for CUDA devices failed. The error is above.")


def weight_files(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """What `pipelines.loading.single_file` measured in files of weights, a JSON object each; raises ProbeError."""
    return _answer(
        "pipelines.loading.single_file",
        *map(str, paths),
        otherwise="Reading the files of weights failed. The error is above.",
    )


def _answer(module: str, *args: str, otherwise: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-P", "-m", module, *args]
    probe = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if probe.returncode != 0:
        raise ProbeError(otherwise)
    found: list[dict[str, Any]] | str = json.loads(probe.stdout)
    if isinstance(found, str):
        raise ProbeError(found)
    return found
