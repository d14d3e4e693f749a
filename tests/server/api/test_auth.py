"""Authentication: new and revoked keys take effect while the server runs."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from server.api.auth import FRESH_SECONDS, Authenticator
from server.core.errors import ForbiddenError, UnauthenticatedError
from server.core.events import Broker
from server.storage.db.api_keys import ApiKey, KeyRing, digest
from server.storage.db.connection import opened


class Clock:
    """A clock that the test advances."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[KeyRing]:
    with opened(f"sqlite:///{tmp_path / 'paddock.db'}") as engine:
        yield KeyRing(engine)


async def test_new_and_revoked_keys_take_effect(ring: KeyRing) -> None:
    clock = Clock()
    auth = Authenticator([], ring, clock)
    assert auth.is_open
    assert await auth.tenant(None) == await auth.tenant("whatever") == ""

    one, other = ring.add("one"), ring.add("other")
    clock.now += FRESH_SECONDS

    assert await auth.tenant(one) == digest(one)[:16]
    assert await auth.tenant(other) != await auth.tenant(one)
    assert not auth.is_open
    for wrong in (None, "", "wrong", one + " ", digest(one)):
        with pytest.raises(UnauthenticatedError):
            await auth.tenant(wrong)

    ring.revoke("one")
    clock.now += FRESH_SECONDS
    with pytest.raises(UnauthenticatedError):
        await auth.tenant(one)
    # revoking the last key does not open the server
    ring.revoke("other")
    clock.now += FRESH_SECONDS
    with pytest.raises(UnauthenticatedError):
        await auth.tenant(None)


async def test_a_watch_ends_once_the_keys_are_not_being_read_any_more(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    auth = Authenticator([], ring, clock)
    began, may_end = threading.Event(), threading.Event()

    def read() -> list[ApiKey]:
        began.set()
        may_end.wait(60)
        return []

    monkeypatch.setattr(ring, "all", read)
    clock.now += FRESH_SECONDS
    watching = asyncio.create_task(auth.watch(lambda _: None))
    assert await asyncio.to_thread(began.wait, 60)

    watching.cancel()
    await asyncio.wait({watching}, timeout=0.05)
    assert not watching.done()
    may_end.set()

    async with asyncio.timeout(60):
        await asyncio.wait({watching})


async def test_keys_from_the_settings_and_the_database_are_both_valid(ring: KeyRing) -> None:
    made = ring.add("made")
    auth = Authenticator(["set"], ring)

    assert await auth.tenant("set") == digest("set")[:16]
    assert await auth.tenant(made) == digest(made)[:16]


async def test_admin_rights_are_every_keys_until_an_admin_key_exists_and_after_the_last(ring: KeyRing) -> None:
    clock = Clock()
    auth = Authenticator(["set"], ring, clock)
    keys = {"set": "set", "plain": ring.add("plain")}

    async def admins() -> set[str]:
        clock.now += FRESH_SECONDS
        found = set()
        for name, key in keys.items():
            try:
                auth.check_admin(await auth.tenant(key))
            except ForbiddenError as error:
                assert "paddock key add NAME --admin" in str(error)
            else:
                found.add(name)
        return found

    assert await admins() == {"set", "plain"}
    keys["boss"] = ring.add("boss", is_admin=True)
    assert await admins() == {"boss"}
    keys["chief"] = ring.add("chief", is_admin=True)
    assert await admins() == {"boss", "chief"}
    ring.revoke("boss")
    del keys["boss"]
    assert await admins() == {"chief"}
    ring.revoke("chief")
    del keys["chief"]
    assert await admins() == {"set", "plain"}


async def test_a_server_without_keys_gives_everybody_admin_rights(ring: KeyRing) -> None:
    auth = Authenticator([], ring)

    auth.check_admin(await auth.tenant(None))


async def test_the_last_known_keys_stay_valid_while_the_database_fails(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, clock = ring.add("laptop"), Clock()
    auth = Authenticator([], ring, clock)

    def fail() -> None:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr(ring, "all", fail)
    clock.now += FRESH_SECONDS

    assert await auth.tenant(key)
    with pytest.raises(UnauthenticatedError):
        await auth.tenant(None)
    # logged once, not for every request
    assert len(caplog.messages) == 1


async def test_the_subscription_of_a_revoked_key_ends(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.api.auth.FRESH_SECONDS", 0.01)
    broker, auth = Broker(), Authenticator(["set"], ring)
    key = ring.add("made")
    watching = asyncio.create_task(auth.watch(broker.dismiss))
    with broker.subscribe(digest(key)[:16]) as made, broker.subscribe(digest("set")[:16]) as configured:
        listening = [asyncio.create_task(anext(aiter(each), None)) for each in (made, configured)]
        await asyncio.sleep(0.1)
        assert not any(each.done() for each in listening)

        ring.revoke("made")

        done, pending = await asyncio.wait(listening, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert (done, pending) == ({listening[0]}, {listening[1]})
    for task in (watching, listening[1]):
        task.cancel()
    await asyncio.gather(watching, *listening, return_exceptions=True)


async def test_anonymous_clients_are_refused_once_a_key_exists(ring: KeyRing) -> None:
    clock = Clock()
    auth = Authenticator([], ring, clock)
    assert auth.accepts("")
    assert not auth.accepts("other")

    key = ring.add("first")
    clock.now += FRESH_SECONDS
    tenant = await auth.tenant(key)

    assert auth.accepts(tenant)
    assert not auth.accepts("")
