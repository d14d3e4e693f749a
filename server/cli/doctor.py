"""The checks of `paddock doctor`: what a server needs from its machine, and how to fix what is wrong.

They change nothing, and may run beside a server.
"""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import httpx
import imageio_ffmpeg
import psutil

from pipelines.core.compile_failures import compile_failures
from pipelines.core.errors import CatalogueError, LoraError, PipelineError
from pipelines.core.model import Attention, Compile
from pipelines.hub import local as weights
from pipelines.hub.loras import list_files
from pipelines.models.catalogue import DEFAULT_MODEL, CatalogueEntry
from pipelines.planning.layout import GIB
from server.cli.disk import Need, rooms, to_convert, to_download
from server.cli.plan import Json, PlanRefusedError, for_model, machine
from server.core.catalogue import load_catalogue
from server.core.settings.settings import Settings
from server.runtime.http.listeners import try_to_listen
from server.runtime.preflight import StartRefusedError, check_files, check_keys, choose_devices, find_devices
from server.runtime.probe import ProbeError, cuda_devices
from server.storage.db.api_keys import are_there_any
from server.storage.db.connection import DatabaseUnusableError, database_of
from server.storage.files.disk import try_out

MIN_CAPABILITY = (7, 5)
"""The lowest compute capability that current PyTorch builds support."""

BF16_CAPABILITY = (8, 0)
"""The lowest compute capability with bf16 units."""

_DEMO_BYTES = 3 * GIB
MISSING_WEIGHTS, DISK_FOR_WEIGHTS = "weights", "disk for weights"
"""The subjects of findings about downloads."""

_SIZE, _FRAMES = "832x480", 81
_HTTP_SECONDS = 2.0
_FFMPEG_SECONDS = 20.0


class Verdict(StrEnum):
    """What a finding means for a server on this machine."""

    OK = "ok"
    WARN = "warning"
    FAIL = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: its subject, the verdict and a sentence, which says how to fix a failure."""

    about: str
    verdict: Verdict
    sentence: str


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks, and yield each finding when it is known."""
    checks: list[Check] = [_data_dir, _files, _disk, _port, _access, _ffmpeg, _host_memory, _loras]
    checks += [_demo_device] if settings.demo else [_gpus, _fp8_attention, _models]
    checks += [_compilation]
    for check in checks:
        yield from check(settings)


def _ok(about: str, sentence: str) -> Finding:
    return Finding(about, Verdict.OK, sentence)


def _warn(about: str, sentence: str) -> Finding:
    return Finding(about, Verdict.WARN, sentence)


def _fail(about: str, sentence: str) -> Finding:
    return Finding(about, Verdict.FAIL, sentence)


def _data_dir(settings: Settings) -> Iterator[Finding]:
    about, folder = "data directory", settings.data_dir
    # a link to nowhere is no folder that will be created
    existing = folder if folder.is_symlink() else _existing(folder)
    try:
        try_out(existing)
    except OSError as error:
        yield _fail(about, f"{folder} is not writable: {error.strerror}. Choose another with --data-dir.")
    else:
        yield _ok(about, f"{folder} is writable." if existing == folder else f"{folder} will be created.")


def _files(settings: Settings) -> Iterator[Finding]:
    try:
        check_files(settings)
    except StartRefusedError as error:
        yield _fail("files", str(error))
    else:
        if settings.files_url is not None:
            yield _ok("files", f"{settings.files_url} can be written and read.")


def _disk(settings: Settings) -> Iterator[Finding]:
    free = psutil.disk_usage(str(_existing(settings.data_dir))).free
    if free < settings.min_free_bytes:
        yield _fail(
            "disk",
            f"{_gb(free)} are free, and the server accepts no generations with less than "
            f"{_gb(settings.min_free_bytes)}: free some space, or lower min_free_bytes.",
        )
    else:
        yield _ok("disk", f"{_gb(free)} are free for videos.")


def _port(settings: Settings) -> Iterator[Finding]:
    about = f"port {settings.port}"
    try:
        try_to_listen(settings)
    except StartRefusedError as error:
        if _is_paddock(settings):
            yield _ok(about, "A Paddock server is running on it.")
        else:
            yield _fail(about, str(error))
    else:
        yield _ok(about, f"It is free on {settings.host}.")


def _is_paddock(settings: Settings) -> bool:
    try:
        answer = httpx.get(f"http://localhost:{settings.port}/healthz", timeout=_HTTP_SECONDS, trust_env=False)
        return answer.status_code == 200 and "version" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


def _access(settings: Settings) -> Iterator[Finding]:
    about = "access"
    try:
        check_keys(settings)
        needs_key = bool(settings.api_keys) or settings.first_key or are_there_any(database_of(settings))
    except (StartRefusedError, DatabaseUnusableError) as error:
        yield _fail(about, str(error))
        return
    if needs_key:
        yield _ok(about, "Clients need an API key.")
    elif settings.is_loopback:
        yield _ok(about, "Only this machine can connect, without a key.")
    else:
        yield _warn(about, f"Anyone who can reach {settings.host} can connect without a key (allow_anonymous is set).")


def _ffmpeg(_settings: Settings) -> Iterator[Finding]:
    about = "ffmpeg"
    fix = "Reinstall the bundled one: pip install --force-reinstall imageio-ffmpeg."
    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        command = [path, "-hide_banner", "-encoders"]
        encoders = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_FFMPEG_SECONDS).stdout
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        yield _fail(about, f"It does not run: {error}. {fix}")
        return
    if "libx264" in encoders:
        yield _ok(about, f"{Path(path).name} encodes H.264.")
    else:
        yield _fail(about, f"{path} lacks libx264, the encoder of the videos. {fix}")


def _host_memory(settings: Settings) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    free = f"{_gb(memory.available)} of {_gb(memory.total)} are free"
    if settings.demo and memory.available < _DEMO_BYTES:
        yield _warn("host memory", f"{free}, and the demo needs up to 3 GB.")
    else:
        yield _ok("host memory", f"{free}.")


def _loras(settings: Settings) -> Iterator[Finding]:
    if (folder := settings.loras_dir) is None:
        return
    try:
        found = len(list_files(folder))
    except LoraError as error:
        yield _fail("LoRAs", f"{error} Set loras_dir to another folder.")
    else:
        yield _ok("LoRAs", f"{found} in {folder}.") if found else _warn("LoRAs", f"{folder} has no safetensors files.")


def _demo_device(settings: Settings) -> Iterator[Finding]:
    try:
        devices = choose_devices(settings)
    except StartRefusedError as error:
        yield _fail("device", str(error))
    else:
        yield _ok("device", f"The demo runs on {', '.join(devices)}.")


def _gpus(settings: Settings) -> Iterator[Finding]:
    about = "GPUs"
    if settings.device == "cpu":
        yield _warn(about, "The device is cpu: a video of the real weights takes hours.")
        return
    try:
        names = find_devices(settings.device, otherwise="To try the server without one, run `paddock serve --demo`.")
        found = {gpu["name"]: gpu for gpu in cuda_devices()}
    except (StartRefusedError, ProbeError) as error:
        yield _fail(about, str(error))
        return
    for name in names:
        gpu = found[name]
        capability = tuple(gpu["capability"])
        free = "" if gpu.get("free") is None else f", of which {_gb(gpu['free'])} are free"
        size = f"{_gb(gpu['memory'])}{free}"
        description = f"{gpu['description']}, {size}, compute capability {'.'.join(map(str, capability))}"
        if capability < MIN_CAPABILITY:
            yield _fail(name, f"{description}: PyTorch has no kernels for capabilities below 7.5.")
        elif capability < BF16_CAPABILITY:
            yield _warn(name, f"{description}: it has no bf16 units and computes in bf16 slowly.")
        else:
            yield _ok(name, f"{description}, PyTorch {version('torch')}.")


def _fp8_attention(settings: Settings) -> Iterator[Finding]:
    if settings.attention is not Attention.FP8 or settings.device == "cpu":
        return
    if find_spec("cudnn") is None:
        yield _fail(
            "fp8 attention",
            "The package nvidia-cudnn-frontend is not installed: pip install 'paddock[fp8-attention]', or set another "
            "attention.",
        )
    else:
        yield _ok("fp8 attention", "cuDNN's kernel is installed.")


def _models(settings: Settings) -> Iterator[Finding]:
    try:
        catalogue = load_catalogue(settings)
    except CatalogueError as error:
        yield _fail("models", str(error))
        return
    missing: dict[str, str] = {}
    planned: list[Json] = []
    for entry in catalogue.values():
        try:
            weights.locate(entry.model)
        except PipelineError as error:
            missing[entry.id] = str(error)
        else:
            yield from _fits(settings, entry, planned)
    needs: list[Need] = []
    if len(missing) == len(catalogue):
        yield _fail(MISSING_WEIGHTS, missing.get(DEFAULT_MODEL, next(iter(missing.values()))))
        if DEFAULT_MODEL in catalogue:
            needs.append(to_download(catalogue[DEFAULT_MODEL].model))
            fit = list(_fits(settings, catalogue[DEFAULT_MODEL], planned))
            # that it would not fit is to be known before it is downloaded
            yield from (finding for finding in fit if finding.verdict is Verdict.FAIL)
    elif missing:
        yield _ok("weights", f"Not downloaded, and not needed until a request names them: {', '.join(missing)}.")
    if planned:
        needs.append(to_convert(settings.data_dir, sum(chosen["converted_bytes"] for chosen in planned)))
    yield from _room(needs)


def _room(needs: list[Need]) -> Iterator[Finding]:
    for room in rooms(needs):
        listed = " and ".join(f"{_gb(need.size)} {need.what} in {need.folder}" for need in room.needs)
        sentence = f"The weights need {listed}, where {_gb(room.free)} are free."
        if room.is_enough:
            yield _ok(DISK_FOR_WEIGHTS, sentence)
        else:
            yield _fail(DISK_FOR_WEIGHTS, f"{sentence} Make room, or set HF_HOME or --data-dir to a larger disk.")


def _fits(settings: Settings, entry: CatalogueEntry, planned: list[Json]) -> Iterator[Finding]:
    """Judge the plan of a model's weights, and add it to `planned`."""
    if settings.device == "cpu":
        yield _ok(entry.id, "Its weights are downloaded.")
        return
    try:
        chosen = for_model(entry, _SIZE, _FRAMES, machine(None, None, None))
    except PlanRefusedError as error:
        # the check of the GPUs reports the failure
        yield _warn(entry.id, f"Its weights are downloaded. {error}")
        return
    planned.append(chosen)
    if chosen["fits"]:
        needs = f"{chosen['device_peak_gib']} GiB of GPU memory"
        yield _ok(entry.id, f"{_SIZE}, {_FRAMES} frames: {chosen['name']}, {needs}.")
    else:
        # the server starts as long as its default model fits
        report = _fail if entry.id == DEFAULT_MODEL else _warn
        yield report(entry.id, f"{_SIZE} does not fit. {chosen['shortfall']} `paddock plan` shows more.")


def _compilation(settings: Settings) -> Iterator[Finding]:
    about = "compilation"
    on_cpu = settings.device == "cpu" or (settings.demo and settings.device == "auto")
    if settings.compile is Compile.OFF or (on_cpu and settings.compile is Compile.AUTO):
        return
    failures = compile_failures(settings.data_dir / "cache").all()
    for device, failure in failures.items():
        day = datetime.fromtimestamp(failure.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
        yield _warn(f"{about} on {device}", f"It failed last on {day}, and steps take longer: {failure.message}")
    # those that inductor calls for a CPU, and Triton for a GPU
    variable, programs = ("CXX", ("g++",)) if on_cpu else ("CC", ("gcc", "clang"))
    named = os.environ.get(variable) or None
    found = next(filter(None, map(shutil.which, [named] if named else programs)), None)
    header = _python_include() / "Python.h"
    longer = "Blocks are not compiled, and steps take up to 55 % longer."
    if found is None:
        why = f"There is no {' and no '.join(programs)}" if named is None else f"{variable} names no program: {named}"
        yield _warn(about, f"{why}. {longer} On Debian, install {programs[0]} and libc6-dev.")
    elif not header.exists():
        yield _warn(about, f"{header} is missing. {longer} On Debian, install python3-dev.")
    elif not failures:
        yield _ok(about, f"{Path(found).name} and Python's headers are there.")


def _python_include() -> Path:
    # Debian's own scheme names a folder that does not exist
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    return Path(sysconfig.get_path("include", scheme))


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gb(size: int) -> str:
    return f"{size / 10**9:.0f} GB"
