"""What `paddock doctor` looks at: everything a server needs of its machine, and in words what is wrong with it.

It changes nothing, and may run beside a server.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import httpx
import imageio_ffmpeg
import psutil

from pipelines.core.catalogue import DEFAULT_MODEL, CatalogueEntry
from pipelines.core.errors import CatalogueError, PipelineError
from pipelines.hub import local as weights
from pipelines.planning.layout import GIB
from server.cli.plan import PlanRefusedError, for_model, machine
from server.core.catalogue import load_catalogue
from server.core.settings import Settings
from server.runtime.preflight import StartRefusedError, check_keys, choose_devices, find_devices
from server.runtime.probe import ProbeError, cuda_devices
from server.runtime.server import listen
from server.storage.db.api_keys import are_there_any
from server.storage.files.disk import try_out

LEAST_CAPABILITY = (7, 5)
"""The first chips that torch's builds of today are for."""

EXACT_CAPABILITY = (8, 0)
"""The first chips that compute in bf16 themselves."""

_WEIGHTS_BYTES = 77 * 10**9
_DEMO_BYTES = 3 * GIB
_SIZE, _FRAMES = "832x480", 81
_ASK_SECONDS = 2.0
_LOOK_SECONDS = 20.0


class Verdict(StrEnum):
    """Whether a server can go by what was found."""

    OK = "well"
    WARN = "may trouble you"
    FAIL = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what of it, and the sentence; where something is wrong it says how to mend it."""

    about: str
    verdict: Verdict
    sentence: str


Look = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at one thing after the other, each told as it is found."""
    looks: list[Look] = [_data_dir, _disk, _port, _strangers, _ffmpeg, _host_memory]
    looks += [_processor] if settings.demo else [_cards, _models]
    for look in looks:
        yield from look(settings)


def _well(about: str, sentence: str) -> Finding:
    return Finding(about, Verdict.OK, sentence)


def _odd(about: str, sentence: str) -> Finding:
    return Finding(about, Verdict.WARN, sentence)


def _bad(about: str, sentence: str) -> Finding:
    return Finding(about, Verdict.FAIL, sentence)


def _data_dir(settings: Settings) -> Iterator[Finding]:
    about, folder = "data directory", settings.data_dir
    there = _nearest(folder)
    try:
        try_out(there)
    except OSError as error:
        yield _bad(about, f"{folder} cannot be written: {error.strerror}. Choose another with --data-dir.")
    else:
        yield _well(about, f"{folder} can be written" + ("." if there == folder else ": it will be made."))


def _disk(settings: Settings) -> Iterator[Finding]:
    free = psutil.disk_usage(str(_nearest(settings.data_dir))).free
    if free < settings.min_free_bytes:
        yield _bad(
            "disk",
            f"{_gb(free)} are free, and nothing is accepted with less than {_gb(settings.min_free_bytes)}: "
            "free some space, or set min_free_bytes.",
        )
    else:
        yield _well("disk", f"{_gb(free)} are free for videos.")


def _port(settings: Settings) -> Iterator[Finding]:
    about = f"port {settings.port}"
    try:
        listen(settings).close()
    except StartRefusedError as error:
        if _is_paddock(settings):
            yield _well(about, "A Paddock server answers there.")
        else:
            yield _bad(about, str(error))
    else:
        yield _well(about, f"It is free on {settings.host}.")


def _is_paddock(settings: Settings) -> bool:
    try:
        answer = httpx.get(f"http://localhost:{settings.port}/healthz", timeout=_ASK_SECONDS)
        return answer.status_code == 200 and "version" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


def _strangers(settings: Settings) -> Iterator[Finding]:
    about = "who may use it"
    try:
        check_keys(settings)
    except StartRefusedError as error:
        yield _bad(about, str(error))
        return
    if settings.api_keys or settings.first_key or are_there_any(settings.records):
        yield _well(about, "Who has a key.")
    elif settings.is_loopback:
        yield _well(about, "Everybody on this machine, without a key.")
    else:
        yield _odd(about, f"Everybody who reaches {settings.host}, without a key, as allow_anonymous says.")


def _ffmpeg(_settings: Settings) -> Iterator[Finding]:
    about = "ffmpeg"
    mend = "Install the one that comes with it: pip install --force-reinstall imageio-ffmpeg."
    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        command = [path, "-hide_banner", "-encoders"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LOOK_SECONDS).stdout
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        yield _bad(about, f"It cannot be run: {error}. {mend}")
        return
    if "libx264" in found:
        yield _well(about, f"{Path(path).name} writes H.264.")
    else:
        yield _bad(about, f"{path} has no libx264, which videos are written with. {mend}")


def _host_memory(settings: Settings) -> Iterator[Finding]:
    seen = psutil.virtual_memory()
    if settings.demo and seen.available < _DEMO_BYTES:
        yield _odd(
            "host memory", f"{_gb(seen.available)} of {_gb(seen.total)} are free, and the demo takes up to 3 GB."
        )
    else:
        yield _well("host memory", f"{_gb(seen.available)} of {_gb(seen.total)} are free.")


def _processor(settings: Settings) -> Iterator[Finding]:
    try:
        devices = choose_devices(settings, [])
    except StartRefusedError as error:
        yield _bad("device", str(error))
    else:
        yield _well("device", f"The demo runs on {', '.join(devices)}.")


def _cards(settings: Settings) -> Iterator[Finding]:
    about = "cards"
    if settings.device == "cpu":
        yield _odd(about, "The processor is to compute: a video of the real weights takes it hours.")
        return
    try:
        names = find_devices(settings.device, otherwise="To try the server without one, start it with --demo.")
        found = {card["name"]: card for card in cuda_devices()}
    except (StartRefusedError, ProbeError) as error:
        yield _bad(about, str(error))
        return
    for name in names:
        card = found[name]
        capability, told = tuple(card["capability"]), f"{card['description']}, {_gb(card['memory'])}"
        said = ".".join(map(str, capability))
        if capability < LEAST_CAPABILITY:
            yield _bad(name, f"{told}: its compute capability {said} is below 7.5, and PyTorch has no kernels for it.")
        elif capability < EXACT_CAPABILITY:
            yield _odd(name, f"{told}: with compute capability {said} it computes in bf16 slowly.")
        else:
            yield _well(name, f"{told}, compute capability {said}, PyTorch {version('torch')}.")


def _models(settings: Settings) -> Iterator[Finding]:
    try:
        catalogue = load_catalogue(settings)
    except CatalogueError as error:
        yield _bad("models", str(error))
        return
    missing = {}
    for entry in catalogue.values():
        try:
            weights.locate(entry.model)
        except PipelineError as error:
            missing[entry.id] = str(error)
        else:
            yield from _fits(settings, entry)
    if len(missing) == len(catalogue):
        free = psutil.disk_usage(str(Path.home())).free
        room = "" if free > _WEIGHTS_BYTES else f" They take 77 GB, and {_gb(free)} are free in your home."
        yield _bad("weights", f"{missing.get(DEFAULT_MODEL, next(iter(missing.values())))}{room}")
    elif missing:
        yield _well("weights", f"Not here, and not needed before they are asked for: {', '.join(missing)}.")


def _fits(settings: Settings, entry: CatalogueEntry) -> Iterator[Finding]:
    if settings.device == "cpu":
        yield _well(entry.id, "Its weights are here.")
        return
    try:
        chosen = for_model(entry, _SIZE, _FRAMES, machine(None, None, None))
    except PlanRefusedError as error:
        # that there is no card was said
        yield _odd(entry.id, f"Its weights are here. {error}")
        return
    if chosen["fits"]:
        needs = f"{chosen['device_peak_gib']} GiB of the card"
        yield _well(entry.id, f"{_SIZE}, {_FRAMES} frames: {chosen['name']}, {needs}.")
    else:
        # that others do not fit is no reason not to serve
        tell = _bad if entry.id == DEFAULT_MODEL else _odd
        yield tell(entry.id, f"{_SIZE} does not fit. {chosen['shortfall']} `paddock plan` shows more.")


def _nearest(folder: Path) -> Path:
    """A folder, or the first of those it is to be made in that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gb(size: int) -> str:
    return f"{size / 10**9:.0f} GB"
