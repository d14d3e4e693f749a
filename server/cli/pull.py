"""What `paddock pull` does and prints: weights fetched from a hub, or those of a folder checked."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipelines.core.catalogue import CatalogueEntry
from pipelines.core.errors import CatalogueError, HubUnreachableError, PipelineError
from pipelines.hub import local as weights
from pipelines.hub.cache import free_bytes
from pipelines.hub.download import DownloadCallback, download
from pipelines.hub.listing import Listing, readable
from pipelines.hub.lookup import look_up, look_up_files
from server.core.catalogue import load_catalogue
from server.core.settings import Settings

LINE_SECONDS = 30.0
"""How often a line says how far it is where no terminal shows a bar."""


class PullRefusedError(Exception):
    """What was asked cannot be begun; `str()` is the sentence."""


def pull(settings: Settings, model: str, source: str | None, verify: bool, console: Console) -> None:
    """Bring a model's weights here from `source`: a hub's address, None for the usual hub, or a folder to check.

    Raises PullRefusedError, or PipelineError if weights cannot be had or are not complete.
    """
    entry = _entry(settings, model)
    say = Sentences(console)
    is_address = source is None or re.match(r"https?://", source) is not None
    named = entry.model.repo if source is None else source
    folder = Path(named).expanduser()
    if folder.is_dir() and not (source and is_address):
        if verify:
            raise PullRefusedError("--verify compares with what a hub says: a folder has none to compare with.")
        _check(entry, folder.absolute(), say)
        if source is None:
            _fetch_all(look_up_files(entry.model), verify, say)
    elif is_address:
        _fetch(entry, source.rstrip("/") if source else None, verify, say)
    else:
        raise PullRefusedError(f"--from: {source} is neither a folder nor an address that begins with http.")


def _entry(settings: Settings, model: str) -> CatalogueEntry:
    try:
        entry = load_catalogue(settings).get(model)
    except CatalogueError as error:
        raise PullRefusedError(str(error)) from error
    if entry is None:
        raise PullRefusedError(f"Model not found: {model}")
    return entry


class Sentences:
    """Lines as they are: wrapped by the terminal, brackets and numbers left alone."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def _check(entry: CatalogueEntry, source: Path, say: Sentences) -> None:
    folder = weights.locate_in(source, entry.model)
    say(f"The weights in {folder} are complete.")
    if folder == Path(entry.model.repo).expanduser().absolute():
        return
    if folder.is_relative_to(source) and folder != source:
        say(f"To serve them, set HF_HUB_CACHE={folder.parents[2]} for `paddock serve`.")
    else:
        say(f'To serve them, put repo = "{folder}" into a copy of the model\'s file in your models_dir.')


def _fetch(entry: CatalogueEntry, hub: str | None, verify: bool, say: Sentences) -> None:
    from huggingface_hub.utils import logging

    # its warnings of a broken connection would tear the bar, which says so itself
    logging.set_verbosity_error()
    try:
        listings = [look_up(entry.model, hub), *look_up_files(entry.model, hub)]
    except HubUnreachableError as error:
        if verify or not (folder := _here(entry)):
            raise
        say(f"{error} The weights in {folder} are complete by their own indexes.")
        return
    _fetch_all(listings, verify, say)
    folder = listings[0].folder
    weights.check(folder, entry.model.pipeline_class, entry.model.replaced)
    say(f"All of it is here{' and verified' if verify else ''}: {folder}")


def _fetch_all(listings: Sequence[Listing], verify: bool, say: Sentences) -> None:
    for listing in listings:
        _announce(listing, say)
        with _progress(listing.total, listing.here if not verify else 0, say) as on_progress:
            download(listing, on_progress, verify)


def _here(entry: CatalogueEntry) -> Path | None:
    spec = entry.model
    try:
        for single in spec.every_file:
            weights.locate_file(single.repo, single.file, single.revision)
        return weights.locate(spec)
    except PipelineError:
        return None


def _announce(listing: Listing, say: Sentences) -> None:
    say(
        f"{listing.repo} at {listing.commit[:7]} from {listing.hub}: {len(listing.files)} files, "
        f"{readable(listing.total)}, {readable(listing.here)} of it here."
    )
    if listing.missing:
        say(
            f"{readable(listing.missing)} to fetch into {listing.cache}, where "
            f"{readable(free_bytes(listing.cache))} are free."
        )


@contextmanager
def _progress(total: int, here: int, say: Sentences) -> Iterator[DownloadCallback]:
    if not say.console.is_terminal:
        yield lines(total, here, say)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=say.console) as bar:
        task = bar.add_task("", total=total, completed=here)
        yield lambda doing, done: bar.update(task, description=doing, completed=done)


def lines(
    total: int, here: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> DownloadCallback:
    """A callback that says seldom, in a line, how far it is and how long it may yet take."""
    began = said = clock()

    def on_progress(doing: str, done: int) -> None:
        nonlocal said
        now = clock()
        if now - said < LINE_SECONDS:
            return
        said = now
        speed = (done - here) / (now - began)
        left = f", about {(total - done) / speed / 60:.0f} minutes left" if speed > 0 else ""
        say(f"{readable(done)} of {readable(total)}, {readable(round(max(0, speed)))}/s{left}: {doing}")

    return on_progress
