"""Checks of the models: their weights, plans, LoRAs, and the disk that downloads need."""

from collections.abc import Iterator

from pipelines.core.errors import CatalogueError, LoraError, PipelineError
from pipelines.hub import local as weights
from pipelines.hub.loras import list_files
from pipelines.models.catalogue import DEFAULT_MODEL, CatalogueEntry
from server.cli.disk import Need, rooms, to_convert, to_download
from server.cli.doctor.finding import DISK_FOR_WEIGHTS, MISSING_WEIGHTS, Finding, Verdict, fail, gb, ok, warn
from server.cli.plan import Json, PlanRefusedError, for_model, machine
from server.core.catalogue import load_catalogue
from server.core.settings.settings import Settings

_SIZE, _FRAMES = "832x480", 81


def loras(settings: Settings) -> Iterator[Finding]:
    """The LoRAs of the setting `loras_dir`."""
    if (folder := settings.loras_dir) is None:
        return
    try:
        found = len(list_files(folder))
    except LoraError as error:
        yield fail("LoRAs", f"{error} Set loras_dir to another folder.")
    else:
        yield ok("LoRAs", f"{found} in {folder}.") if found else warn("LoRAs", f"{folder} has no safetensors files.")


def models(settings: Settings) -> Iterator[Finding]:
    """The weights of each model that are here, their plans, and the disk that others need."""
    try:
        catalogue = load_catalogue(settings)
    except CatalogueError as error:
        yield fail("models", str(error))
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
        yield fail(MISSING_WEIGHTS, missing.get(DEFAULT_MODEL, next(iter(missing.values()))))
        if DEFAULT_MODEL in catalogue:
            needs.append(to_download(catalogue[DEFAULT_MODEL].model))
            fit = list(_fits(settings, catalogue[DEFAULT_MODEL], planned))
            # that it would not fit is to be known before it is downloaded
            yield from (finding for finding in fit if finding.verdict is Verdict.FAIL)
    elif missing:
        yield ok("weights", f"Not downloaded, and not needed until a request names them: {', '.join(missing)}.")
    if planned:
        needs.append(to_convert(settings.data_dir, sum(chosen["converted_bytes"] for chosen in planned)))
    yield from _room(needs)


def _room(needs: list[Need]) -> Iterator[Finding]:
    for room in rooms(needs):
        listed = " and ".join(f"{gb(need.size)} {need.what} in {need.folder}" for need in room.needs)
        sentence = f"The weights need {listed}, where {gb(room.free)} are free."
        if room.is_enough:
            yield ok(DISK_FOR_WEIGHTS, sentence)
        else:
            yield fail(DISK_FOR_WEIGHTS, f"{sentence} Make room, or set HF_HOME or --data-dir to a larger disk.")


def _fits(settings: Settings, entry: CatalogueEntry, planned: list[Json]) -> Iterator[Finding]:
    """Judge the plan of a model's weights, and add it to `planned`."""
    if settings.device == "cpu":
        yield ok(entry.id, "Its weights are downloaded.")
        return
    try:
        chosen = for_model(entry, _SIZE, _FRAMES, machine(None, None, None))
    except PlanRefusedError as error:
        # the check of the GPUs reports the failure
        yield warn(entry.id, f"Its weights are downloaded. {error}")
        return
    planned.append(chosen)
    if chosen["fits"]:
        needs = f"{chosen['device_peak_gib']} GiB of GPU memory"
        yield ok(entry.id, f"{_SIZE}, {_FRAMES} frames: {chosen['name']}, {needs}.")
    else:
        # the server starts as long as its default model fits
        report = fail if entry.id == DEFAULT_MODEL else warn
        yield report(entry.id, f"{_SIZE} does not fit. {chosen['shortfall']} `paddock plan` shows more.")
