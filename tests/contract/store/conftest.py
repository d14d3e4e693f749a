"""Empty stores on each kind of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.store.examples import Clock
from tests.support.records import StandaloneStore as Store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'paddock.db'}"


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    """An empty store of each kind."""
    store = Store(url, clock, max_overtakes=2, server="me")
    yield store
    store.close()


@pytest.fixture
def rival(url: str, store: Store) -> Iterator[Store]:
    """Another store on the same database."""
    rival = Store(url, max_overtakes=2, server="rival")
    yield rival
    rival.close()


@pytest.fixture
def twin(url: str, store: Store, clock: Clock) -> Iterator[Store]:
    """Another server's store on the same database, by the same clock."""
    twin = Store(url, clock, max_overtakes=2, server="twin")
    yield twin
    twin.close()
