"""The routes under /v1 of a server that looks like the test's own."""

from collections.abc import Iterator

import pytest

from tests.support.openai import V1, v1_of
from tests.support.server_process import ServerProcess


@pytest.fixture
def v1(tenant: ServerProcess) -> Iterator[V1]:
    """The routes as the client of `tenant` sees them."""
    with v1_of(tenant) as routes:
        yield routes
