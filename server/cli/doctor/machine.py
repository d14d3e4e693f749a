"""Checks of the machine: folders, disk, port, keys, programs, memory and the compiler."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import imageio_ffmpeg
import psutil

from pipelines.core.compile_failures import compile_failures
from pipelines.core.model import Compile
from pipelines.planning.layout import GIB
from server.cli.doctor.finding import Finding, fail, gb, ok, warn
from server.core.settings.settings import Settings
from server.runtime.http.listeners import try_to_listen
from server.runtime.preflight import StartRefusedError, check_files, check_keys
from server.storage.db.api_keys import are_there_any
from server.storage.db.connection import DatabaseUnusableError, database_of
from server.storage.files.disk import try_out

_DEMO_BYTES = 3 * GIB
_HTTP_SECONDS = 2.0
_FFMPEG_SECONDS = 20.0


def data_dir(settings: Settings) -> Iterator[Finding]:
    """Whether the data directory can be written."""
    about, folder = "data directory", settings.data_dir
    # a link to nowhere is no folder that will be created
    existing = folder if folder.is_symlink() else _existing(folder)
    try:
        try_out(existing)
    except OSError as error:
        yield fail(about, f"{folder} is not writable: {error.strerror}. Choose another with --data-dir.")
    else:
        yield ok(about, f"{folder} is writable." if existing == folder else f"{folder} will be created.")


def files(settings: Settings) -> Iterator[Finding]:
    """Whether the object store, if there is one, can be written and read."""
    try:
        check_files(settings)
    except StartRefusedError as error:
        yield fail("files", str(error))
    else:
        if settings.files_url is not None:
            yield ok("files", f"{settings.files_url} can be written and read.")


def disk(settings: Settings) -> Iterator[Finding]:
    """Whether the disk has room for videos."""
    free = psutil.disk_usage(str(_existing(settings.data_dir))).free
    if free < settings.min_free_bytes:
        yield fail(
            "disk",
            f"{gb(free)} are free, and the server accepts no generations with less than "
            f"{gb(settings.min_free_bytes)}: free some space, or lower min_free_bytes.",
        )
    else:
        yield ok("disk", f"{gb(free)} are free for videos.")


def port(settings: Settings) -> Iterator[Finding]:
    """Whether the server can listen on its port."""
    about = f"port {settings.port}"
    try:
        try_to_listen(settings)
    except StartRefusedError as error:
        if _is_paddock(settings):
            yield ok(about, "A Paddock server is running on it.")
        else:
            yield fail(about, str(error))
    else:
        yield ok(about, f"It is free on {settings.host}.")


def _is_paddock(settings: Settings) -> bool:
    try:
        answer = httpx.get(f"http://localhost:{settings.port}/healthz", timeout=_HTTP_SECONDS, trust_env=False)
        return answer.status_code == 200 and "version" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


def access(settings: Settings) -> Iterator[Finding]:
    """Who can connect, and whether a key is needed."""
    about = "access"
    try:
        check_keys(settings)
        needs_key = bool(settings.api_keys) or settings.first_key or are_there_any(database_of(settings))
    except (StartRefusedError, DatabaseUnusableError) as error:
        yield fail(about, str(error))
        return
    if needs_key:
        yield ok(about, "Clients need an API key.")
    elif settings.is_loopback:
        yield ok(about, "Only this machine can connect, without a key.")
    else:
        yield warn(about, f"Anyone who can reach {settings.host} can connect without a key (allow_anonymous is set).")


def ffmpeg(_settings: Settings) -> Iterator[Finding]:
    """Whether ffmpeg runs and encodes H.264."""
    about = "ffmpeg"
    fix = "Reinstall the bundled one: pip install --force-reinstall imageio-ffmpeg."
    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        command = [path, "-hide_banner", "-encoders"]
        encoders = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_FFMPEG_SECONDS).stdout
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        yield fail(about, f"It does not run: {error}. {fix}")
        return
    if "libx264" in encoders:
        yield ok(about, f"{Path(path).name} encodes H.264.")
    else:
        yield fail(about, f"{path} lacks libx264, the encoder of the videos. {fix}")


def host_memory(settings: Settings) -> Iterator[Finding]:
    """How much host memory is free."""
    memory = psutil.virtual_memory()
    free = f"{gb(memory.available)} of {gb(memory.total)} are free"
    if settings.demo and memory.available < _DEMO_BYTES:
        yield warn("host memory", f"{free}, and the demo needs up to 3 GB.")
    else:
        yield ok("host memory", f"{free}.")


def compilation(settings: Settings) -> Iterator[Finding]:
    """Whether blocks can be compiled, and how it ended the last time."""
    about = "compilation"
    on_cpu = settings.device == "cpu" or (settings.demo and settings.device == "auto")
    if settings.compile is Compile.OFF or (on_cpu and settings.compile is Compile.AUTO):
        return
    failures = compile_failures(settings.data_dir / "cache").all()
    for device, failure in failures.items():
        day = datetime.fromtimestamp(failure.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
        yield warn(f"{about} on {device}", f"It failed last on {day}, and steps take longer: {failure.message}")
    # those that inductor calls for a CPU, and Triton for a GPU
    variable, programs = ("CXX", ("g++",)) if on_cpu else ("CC", ("gcc", "clang"))
    named = os.environ.get(variable) or None
    found = next(filter(None, map(shutil.which, [named] if named else programs)), None)
    header = _python_include() / "Python.h"
    longer = "Blocks are not compiled, and steps take up to 55 % longer."
    if found is None:
        why = f"There is no {' and no '.join(programs)}" if named is None else f"{variable} names no program: {named}"
        yield warn(about, f"{why}. {longer} On Debian, install {programs[0]} and libc6-dev.")
    elif not header.exists():
        yield warn(about, f"{header} is missing. {longer} On Debian, install python3-dev.")
    elif not failures:
        yield ok(about, f"{Path(found).name} and Python's headers are there.")


def _python_include() -> Path:
    # Debian's own scheme names a folder that does not exist
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    return Path(sysconfig.get_path("include", scheme))


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
