"""Probes that run in a child process, so that a crashing driver or a heavy library cannot affect this process."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class ProbeError(Exception):
    """A probe failed; `str()` is a sentence for the user."""


def cuda_devices() -> list[dict[str, Any]]:
    """Return what `pipelines.planning.devices` finds, one JSON object per device; raises ProbeError."""
    return _run("pipelines.planning.devices", otherwise="Looking for CUDA devices failed. See the error above.")


def weight_files(
    pipeline_class: str, paths: Mapping[str, Path], loras: Iterable[tuple[str, Path]] = ()
) -> list[dict[str, Any]]:
    """Return what `pipelines.loading.single_file` reads from weight files, one JSON object each; raises ProbeError.

    The files are given by the parts whose weights they have, of a model of that pipeline class; LoRAs by those that
    they change.
    """
    return _run(
        "pipelines.loading.single_file",
        pipeline_class,
        *(f"{part}={path}" for part, path in paths.items()),
        *(f"--lora={part}={path}" for part, path in loras),
        otherwise="Reading the weight files failed. See the error above.",
    )


def _run(module: str, *args: str, otherwise: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-P", "-m", module, *args]
    probe = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if probe.returncode != 0:
        raise ProbeError(otherwise)
    found: list[dict[str, Any]] | str = json.loads(probe.stdout)
    if isinstance(found, str):
        raise ProbeError(found)
    return found
