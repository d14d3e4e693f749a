"""The connection to an object store: opens a URL, limits how long each call takes, and explains its errors.

Credentials, region and endpoint come from the variables that the store's own tools read (AWS_…, GOOGLE_…, AZURE_…), or
from a file of them. They are never logged, nor are URLs with their queries, which may hold a signature.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from server.storage.files.object_store.credentials import read_credentials

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

    Client = AzureStore | GCSStore | S3Store

log = logging.getLogger("paddock.files")

CALL_SECONDS = 60.0
"""How long one call may take; of an upload, how long it may go without taking more of its content.

Parts of an upload are 5 MiB, and three are sent at once: 3 Mbit/s are enough for them.
"""

_CONNECT_SECONDS = 5.0
_RETRIES = 3
_TEST = b"Paddock checks that it can write here.\n"
_QUERY = re.compile(r"\?[^\s,)]*")
_MAX_DETAIL_CHARS = 300


class ObjectStoreError(OSError):
    """The object store did not do what it was asked; `str()` ends a sentence, `detail` is for the log."""

    def __init__(self, sentence: str, detail: str = "") -> None:
        super().__init__(sentence)
        self.detail = detail


class ObjectStoreUnusableError(Exception):
    """The object store of the settings cannot be used; `str()` says why and what to do."""


class Bucket:
    """A bucket, or what begins with a prefix in one; `client` is obstore's. A call may take `patience` seconds."""

    def __init__(self, url: str, client: "Client", patience: float = CALL_SECONDS) -> None:
        self.url = url
        self.client = client
        self.patience = patience
        self._outage: str | None = None

    @classmethod
    def of(cls, url: str, credentials: Path | None = None) -> "Bucket":
        """Open s3://BUCKET/PREFIX, gs://… or az://…; nothing is asked of it yet. Raises ObjectStoreUnusableError.

        What the file `credentials` sets takes precedence over variables of this process.
        """
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise ObjectStoreUnusableError(
                f"files_url needs obstore ({error}). Install it: pip install 'paddock[object-store]'."
            ) from error
        try:
            given: Any = {} if credentials is None else read_credentials(credentials)
        except ValueError as error:
            raise ObjectStoreUnusableError(f"files_credentials: {error}") from error
        options = _client_options({**os.environ, **given})
        try:
            client = from_url(url, config=given, client_options=options, retry_config=_retries())
            return cls(url, cast("Client", client))
        except (BaseError, ValueError) as error:
            raise ObjectStoreUnusableError(
                f"files_url {url} cannot be used: {_detail(error)}. docs/storage.md lists the variables "
                "that its credentials come from."
            ) from error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise FileNotFoundError or ObjectStoreError for what obstore raises. An outage is logged once."""
        from obstore.exceptions import BaseError, PreconditionError

        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(_detail(error)) from error
        except TimeoutError as error:
            raise self._failed("the object store does not answer", f"nothing within {self.patience:g} s") from error
        except PreconditionError as error:
            raise ObjectStoreError("the file was replaced while it was read") from error
        except BaseError as error:
            raise self._failed(_sentence(error), _detail(error)) from error
        if self._outage is not None:
            log.info("the object store answers again")
            self._outage = None

    def _failed(self, sentence: str, detail: str) -> ObjectStoreError:
        if self._outage != sentence:
            self._outage = sentence
            log.warning("%s: %s", sentence, detail)
        return ObjectStoreError(sentence, detail)

    @asynccontextmanager
    async def call(self) -> AsyncIterator[asyncio.Timeout]:
        """A context for calls that are waited for as long as is allowed, and whose errors are `explained`."""
        with self.explained():
            async with asyncio.timeout(self.patience) as limit:
                yield limit

    def try_out(self, *, signs: bool = False) -> None:
        """Write, read, find and remove a test object, and sign a URL; it waits for the network.

        Raises ObjectStoreUnusableError.
        """
        import obstore

        path = f"test/{uuid4().hex}.txt"
        try:
            with self.explained():
                obstore.put(self.client, path, _TEST)
                found = bytes(obstore.get(self.client, path).bytes())
                listed = [each["path"] for page in obstore.list(self.client, "test") for each in page]
                if signs:
                    obstore.sign(self.client, "GET", path, timedelta(seconds=1))
                obstore.delete(self.client, path)
        except FileNotFoundError as error:
            raise ObjectStoreUnusableError(
                f"The files cannot be kept in {self.url}: there is no such bucket."
            ) from error
        except ObjectStoreError as error:
            raise ObjectStoreUnusableError(
                f"The files cannot be kept in {self.url}: {error}. {error.detail}. docs/storage.md lists what it needs."
            ) from error
        if found != _TEST or path not in listed:
            raise ObjectStoreUnusableError(f"The files cannot be kept in {self.url}: it lost a test object.")


def _client_options(environment: Mapping[str, str]) -> "ClientConfig":
    """Return the limits of each request. An endpoint that is written with http:// is meant."""
    endpoints = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    is_plain = any(environment.get(name, "").startswith("http://") for name in endpoints)
    return {
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "timeout": timedelta(seconds=CALL_SECONDS),
        "allow_http": is_plain,
    }


def _retries() -> "RetryConfig":
    return {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=CALL_SECONDS / 4),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
    }


def _sentence(error: Exception) -> str:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    if isinstance(error, UnauthenticatedError | PermissionDeniedError):
        return "the object store refuses access"
    return "the object store failed or cannot be reached"


def _detail(error: BaseException) -> str:
    """Return the first line of an error's message, without queries of URLs and cut to what a log line holds."""
    line = next(iter(str(error).splitlines()), "")
    return _QUERY.sub("", line).strip().rstrip(".")[:_MAX_DETAIL_CHARS]
