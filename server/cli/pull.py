"""`paddock pull`: download a model's weights from a hub, or check those of a folder."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipelines.core.errors import CatalogueError, HubAccessError, HubUnreachableError, PipelineError
from pipelines.core.home import expanded
from pipelines.core.model import SoundSpec, Weights
from pipelines.hub import local as weights
from pipelines.hub.cache import check_room, free_bytes
from pipelines.hub.download import DownloadCallback, download
from pipelines.hub.folder import check
from pipelines.hub.listing import Listing, readable
from pipelines.hub.lookup import look_up, look_up_files
from pipelines.models.catalogue import DEFAULT_MODEL
from pipelines.models.model_index import NAME as MODEL_INDEX
from server.cli.terminal import printable
from server.core.catalogue import load_catalogue, load_sounds
from server.core.settings.settings import Settings

LINE_SECONDS = 30.0
"""The time between two lines of progress where the output is no terminal."""


class PullRefusedError(Exception):
    """The options cannot be carried out; `str()` is a sentence."""


def pull(
    settings: Settings,
    model: str,
    source: str | None,
    verify: bool,
    console: Console,
    agrees: Callable[[str], bool] = lambda _: False,
) -> None:
    """Download a model's weights from `source`: a hub's address, None for the default hub, or a folder to check.

    `agrees` is asked whether whoever downloads weights that a hub guards has agreed to their licence.
    Raises PullRefusedError, or PipelineError if weights cannot be downloaded or are incomplete.
    """
    spec = _spec(settings, model)
    print_line = LinePrinter(console)
    is_address = source is None or re.match(r"https?://", source) is not None
    named = spec.repo if source is None else source
    folder = expanded(named, "--from" if source else "repo")
    if folder.is_dir() and not (source and is_address):
        if verify:
            raise PullRefusedError("--verify compares checksums with a hub's: it cannot check a folder.")
        _check(spec, folder.absolute(), print_line)
        if source is None:
            _download_all(look_up_files(spec), verify, print_line)
    elif is_address:
        if isinstance(spec, SoundSpec):
            _ask_for_consent(spec, print_line, agrees)
        _download(settings, spec, source.rstrip("/") if source else None, verify, print_line)
    else:
        raise PullRefusedError(f"--from: {source} is neither a folder nor an address that begins with http.")


def _spec(settings: Settings, model: str) -> Weights:
    try:
        entry = load_catalogue(settings).get(model)
        if entry is not None:
            return entry.model
        sound = load_sounds(settings).get(model)
    except CatalogueError as error:
        raise PullRefusedError(str(error)) from error
    if sound is None:
        raise PullRefusedError(f"Model not found: {model}")
    return sound


def _ask_for_consent(sound: SoundSpec, print_line: "LinePrinter", agrees: Callable[[str], bool]) -> None:
    """Show the licence of weights, and raise PullRefusedError unless it is agreed to where a hub asks for that."""
    licence = sound.licence
    if licence is None or _downloaded_folder(sound) is not None:
        return
    print_line(f"{sound.id} has a licence of its own: {licence.name}, {licence.url}")
    if licence.summary:
        print_line(licence.summary)
    if sound.is_gated and not agrees("Have you read this licence, and do you agree to it?"):
        raise PullRefusedError(
            f"The weights of {sound.id} are only for who agrees to their licence. Read {licence.url}, agree to it on "
            "the repository's page, log in with `hf auth login`, and run the same command with --accept-licence."
        )


class LinePrinter:
    """Prints lines unchanged: the terminal wraps them, and brackets and numbers have no meaning."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, line: str) -> None:
        self.console.print(printable(line), soft_wrap=True, highlight=False, markup=False)


def _check(spec: Weights, source: Path, print_line: LinePrinter) -> None:
    folder = weights.locate_in(source, spec)
    print_line(f"The weights in {folder} are complete.")
    if folder == expanded(spec.repo).absolute():
        return
    if folder.is_relative_to(source) and folder != source:
        print_line(f"To serve them, set HF_HUB_CACHE={folder.parents[2]} for `paddock serve`.")
    else:
        print_line(f'To serve them, put repo = "{folder}" into a copy of the model\'s file in your models_dir.')


def _download(settings: Settings, spec: Weights, hub: str | None, verify: bool, print_line: LinePrinter) -> None:
    from huggingface_hub.utils import logging

    # its warnings of broken connections would break the progress bar, which reports them too
    logging.set_verbosity_error()
    if _downloaded_folder(spec) is None:
        _warn_of_start(settings, spec, print_line)
    try:
        listings = [look_up(spec, hub), *look_up_files(spec, hub)]
    except HubAccessError as error:
        if not isinstance(spec, SoundSpec) or MODEL_INDEX not in str(error):
            raise
        raise PullRefusedError(
            f"{error} Download it with `hf download {spec.repo} --local-dir FOLDER`, convert it with "
            "`python -m pipelines.tools.convert_sound FOLDER OTHER`, and name OTHER as its repo (docs/sound.md)."
        ) from error
    except HubUnreachableError as error:
        if verify or not (folder := _downloaded_folder(spec)):
            raise
        print_line(f"{error} The weights in {folder} are complete, as their index files show.")
        return
    _download_all(listings, verify, print_line)
    folder = listings[0].folder
    check(folder, spec.pipeline_class, spec.replaced)
    print_line(f"The weights are complete{' and verified' if verify else ''}: {folder}")


def _warn_of_start(settings: Settings, spec: Weights, print_line: LinePrinter) -> None:
    """Say before a long download what else keeps a server from starting here. The download itself may be for another.

    What the doctor says of weights is of the default model's.
    """
    from server.cli.doctor.examine import examine
    from server.cli.doctor.finding import DISK_FOR_WEIGHTS, MISSING_WEIGHTS, Verdict

    ours = {MISSING_WEIGHTS} if spec.id == DEFAULT_MODEL else {MISSING_WEIGHTS, DISK_FOR_WEIGHTS, DEFAULT_MODEL}
    found = examine(settings, asks=False)
    failures = [each for each in found if each.verdict is Verdict.FAIL and each.about not in ours]
    if failures:
        print_line("With these weights `paddock serve` would still not start on this machine:")
        for failure in failures:
            print_line(f"  {failure.about}: {failure.sentence}")
        print_line("The download goes on: the weights can serve another machine. Ctrl-C stops it.")


def _download_all(listings: Sequence[Listing], verify: bool, print_line: LinePrinter) -> None:
    if listings:
        check_room(*listings)
    for listing in listings:
        _announce(listing, print_line)
        with _progress(listing.total, listing.here if not verify else 0, print_line) as on_progress:
            download(listing, on_progress, verify)


def _downloaded_folder(spec: Weights) -> Path | None:
    try:
        for single in spec.every_file:
            weights.locate_file(single.repo, single.file, single.revision)
        return weights.locate(spec)
    except PipelineError:
        return None


def _announce(listing: Listing, print_line: LinePrinter) -> None:
    print_line(
        f"{listing.repo} at {listing.commit[:7]} from {listing.hub}: {len(listing.files)} files, "
        f"{readable(listing.total)}, {readable(listing.here)} of it downloaded."
    )
    if listing.missing:
        print_line(
            f"{readable(listing.missing)} to download into {listing.cache}, where "
            f"{readable(free_bytes(listing.cache))} are free."
        )


@contextmanager
def _progress(total: int, here: int, print_line: LinePrinter) -> Iterator[DownloadCallback]:
    if not print_line.console.is_terminal:
        yield progress_lines(total, here, print_line)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=print_line.console) as bar:
        task = bar.add_task("", total=total, completed=here)
        yield lambda doing, done: bar.update(task, description=doing, completed=done)


def progress_lines(
    total: int, here: int, print_line: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> DownloadCallback:
    """A callback that prints a line with progress, speed and time left every LINE_SECONDS."""
    began = printed = clock()

    def on_progress(doing: str, done: int) -> None:
        nonlocal printed
        now = clock()
        if now - printed < LINE_SECONDS:
            return
        printed = now
        speed = (done - here) / (now - began)
        left = f", about {(total - done) / speed / 60:.0f} minutes left" if speed > 0 else ""
        print_line(f"{readable(done)} of {readable(total)}, {readable(round(max(0, speed)))}/s{left}: {doing}")

    return on_progress
