"""Checks before the server listens. A start that cannot work is refused, with all reasons at once."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from pipelines.core.errors import CatalogueError, LoraError, UnsupportedModelError, WeightsNotFoundError
from pipelines.hub.loras import list_files
from pipelines.models.catalogue import CatalogueEntry
from server.core.catalogue import load_catalogue
from server.core.settings.sections import StorageSettings
from server.core.settings.settings import Settings
from server.engine.ray.failures import ClusterError, check_installed
from server.engine.ray.options import TOKEN_FILE, is_loopback
from server.enhance.configured import EnhanceSettingsError, configured_rewriter, configured_styles
from server.runtime.data_dir import DataDirInUseError, locked
from server.runtime.engines import token_file
from server.runtime.environment import empty_temporary
from server.runtime.probe import ProbeError, cuda_devices
from server.storage.db.api_keys import FIRST, KeyRing, are_there_any
from server.storage.db.connection import DatabaseUnusableError, check_database, database_of, opened
from server.storage.files.disk import try_out
from server.storage.files.object_store.bucket import Bucket, ObjectStoreUnusableError
from server.storage.files.stores import LocalFolders, key_of

log = logging.getLogger("paddock")


class StartRefusedError(Exception):
    """The server cannot start with these settings; each argument is a sentence that says what to change."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class Problems:
    """Collects the reasons to refuse a start, so that all of them are named at once."""

    def __init__(self) -> None:
        self._sentences: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """A context in which a StartRefusedError ends the block, and is kept."""
        try:
            yield
        except StartRefusedError as error:
            self._sentences += [sentence for sentence in error.args if sentence not in self._sentences]

    def refuse(self) -> None:
        """Raise one StartRefusedError for all that were collected, if any."""
        if self._sentences:
            raise StartRefusedError(*self._sentences)


def run_checks(settings: Settings, try_to_listen: Callable[[], None], *, makes_key: bool = False) -> list[str]:
    """Run all checks and return the devices to use: torch names, none with a cluster.

    Raises StartRefusedError with every problem. `try_to_listen` raises it unless the server's address and port can be
    used. `makes_key`: a key is made before the first request.
    """
    problems, devices, catalogue = Problems(), list[str](), dict[str, CatalogueEntry]()
    with problems.collected():
        if not makes_key:
            check_keys(settings)
    with problems.collected():
        check_data_dir(settings)
    with problems.collected():
        check_files(settings)
    with problems.collected():
        try_to_listen()
    with problems.collected():
        catalogue = read_models(settings)
    is_clustered = settings.ray_address is not None
    if catalogue:
        with problems.collected():
            check_preload(settings, catalogue)
        with problems.collected():
            # a cluster's hosts have weights of their own
            if not settings.demo and not is_clustered:
                check_weights(list(catalogue.values()))
    with problems.collected():
        check_enhancement(settings)
    if settings.loras_dir is not None:
        with problems.collected():
            check_loras(settings.loras_dir)
    with problems.collected():
        if is_clustered:
            check_cluster(settings)
        else:
            devices = choose_devices(settings)
    with problems.collected():
        check_readable_records(settings)
    problems.refuse()
    # last, because it may migrate the database: a refused start must not change it
    check_records(settings)
    return devices


def read_models(settings: Settings) -> dict[str, CatalogueEntry]:
    """Return the models by id. Raises StartRefusedError if a model's file is wrong."""
    try:
        return load_catalogue(settings)
    except CatalogueError as error:
        raise StartRefusedError(str(error)) from error


def check_preload(settings: Settings, catalogue: Mapping[str, CatalogueEntry]) -> None:
    """Raise StartRefusedError if `preload` names no model."""
    if settings.preload and settings.preload not in catalogue:
        raise StartRefusedError(f"preload: Model not found: {settings.preload}")


def check_enhancement(settings: Settings) -> None:
    """Raise StartRefusedError if the settings of the language model do not fit together, or name an unusable file."""
    try:
        configured_rewriter(settings)
        configured_styles(settings)
    except EnhanceSettingsError as error:
        raise StartRefusedError(str(error)) from error


def check_keys(settings: Settings) -> None:
    """Raise StartRefusedError if other machines can reach the server and no key is required."""
    if settings.is_loopback or settings.api_keys or settings.first_key or settings.allow_anonymous:
        return
    try:
        if are_there_any(database_of(settings)):
            return
    except DatabaseUnusableError as error:
        raise StartRefusedError(str(error)) from error
    raise StartRefusedError(
        f"Listening on {settings.host} would let anyone on the network use this machine. Create a key with "
        "`paddock key add NAME` or set PADDOCK_API_KEYS. If something else controls access, set "
        "PADDOCK_ALLOW_ANONYMOUS=true."
    )


def check_cluster(settings: Settings) -> None:
    """Raise StartRefusedError unless Ray is installed, and the cluster has a token where others can reach it."""
    try:
        check_installed()
    except ClusterError as error:
        raise StartRefusedError(f"ray_address: {error}") from error
    assert settings.ray_address is not None
    token = token_file(settings)
    if token is None and not is_loopback(settings.ray_address):
        raise StartRefusedError(
            f"The cluster's token is missing: whoever reaches a Ray cluster without one can run programs on it. Copy "
            f"it from its head to {settings.data_dir / TOKEN_FILE}, or set PADDOCK_RAY_TOKEN_FILE."
        )
    if token is not None and not token.is_file():
        raise StartRefusedError(f"ray_token_file: {token} does not exist.")


def choose_devices(settings: Settings) -> list[str]:
    """Return the devices to serve on, as torch names. Raises StartRefusedError if there is no such device."""
    if settings.demo:
        return find_devices("cpu" if settings.device == "auto" else settings.device, otherwise="Leave out --device.")
    return find_devices(
        settings.device,
        otherwise="To try the server without one, run `paddock serve --demo`. To run the real weights on the CPU, "
        "which is very slow, run `paddock serve --device cpu`.",
    )


def check_data_dir(settings: StorageSettings) -> None:
    """Write a test file to the data directory; raises StartRefusedError if the directory cannot be used.

    Later failures, while the server runs, are reported to clients and retried.
    """
    try:
        with locked(settings.data_dir):
            try_out(settings.data_dir)
            empty_temporary(settings.data_dir)
            LocalFolders.of(settings.data_dir, is_scratch=settings.files_url is not None)
            key_of(settings.data_dir)
    except OSError as error:
        raise StartRefusedError(unusable(settings.data_dir, error)) from error
    except DataDirInUseError as error:
        raise StartRefusedError(str(error)) from error


def check_files(settings: StorageSettings) -> None:
    """Write, read and remove a test object in the object store, if there is one. Raises StartRefusedError.

    Later failures, while the server runs, are reported to clients and retried.
    """
    if settings.files_url is None:
        if settings.redirect_links:
            raise StartRefusedError(
                "redirect_links needs an object store, since a folder has no URLs to redirect to: set files_url, or "
                "leave redirect_links out."
            )
        if settings.files_credentials is not None:
            raise StartRefusedError("files_credentials opens an object store, and none is set: set files_url, too.")
        return
    try:
        Bucket.of(settings.files_url, settings.files_credentials).try_out(signs=settings.redirect_links)
    except ObjectStoreUnusableError as error:
        raise StartRefusedError(str(error)) from error


def check_loras(folder: Path) -> None:
    """Raise StartRefusedError if the folder of LoRAs cannot be read. Later failures are reported to clients."""
    try:
        list_files(folder)
    except LoraError as error:
        raise StartRefusedError(f"loras_dir: {error}") from error


def check_readable_records(settings: Settings) -> None:
    """Raise StartRefusedError if there is a database that cannot be read or is of a newer version. It is unchanged."""
    try:
        check_database(database_of(settings))
    except DatabaseUnusableError as error:
        raise StartRefusedError(str(error)) from error


def check_records(settings: Settings) -> None:
    """Migrate the database to this version's schema; raises StartRefusedError if it cannot be used."""
    try:
        with locked(settings.data_dir), opened(database_of(settings)) as engine:
            ring = KeyRing(engine)
            if settings.first_key and not settings.api_keys and not ring.all():
                log.warning("Created an API key, which is shown only now: %s", ring.add(FIRST))
    except (DataDirInUseError, DatabaseUnusableError) as error:
        raise StartRefusedError(str(error)) from error


def unusable(data_dir: Path, error: OSError) -> str:
    """A sentence that says why a data directory cannot be used, and what to do."""
    # the words for a file or a broken link in its place would be "File exists"
    is_other = isinstance(error, FileExistsError | NotADirectoryError)
    why = "it is not a folder" if is_other else os.strerror(error.errno) if error.errno else str(error)
    return f"The data directory {data_dir} cannot be used: {why}. Choose another with --data-dir."


def check_weights(entries: list[CatalogueEntry]) -> None:
    """Raise StartRefusedError unless at least one model has its weights on this machine."""
    from pipelines.hub import local as weights

    problems = []
    for entry in entries:
        try:
            weights.locate(entry.model)
        except (WeightsNotFoundError, UnsupportedModelError) as error:
            problems.append(str(error))
        else:
            return
    raise StartRefusedError(f"{problems[0]} To try the server without them, run `paddock serve --demo`.")


def find_devices(wanted: str, otherwise: str) -> list[str]:
    """Return the devices that match `wanted`, as torch names; raises StartRefusedError, ending with `otherwise`."""
    if wanted == "cpu":
        return ["cpu"]
    try:
        found = cuda_devices()
    except ProbeError as error:
        raise StartRefusedError(str(error)) from error
    names = [device["name"] for device in found if wanted in ("auto", device["name"])]
    if names and version("torch").endswith("+cpu"):
        raise StartRefusedError(
            f"{found[0]['description']} was found, but the installed PyTorch is a build without CUDA. "
            "Install a build with CUDA: pip install --force-reinstall torch."
        )
    if not names:
        raise StartRefusedError(f"No CUDA device{'' if wanted == 'auto' else ' ' + wanted} was found. {otherwise}")
    return names
