"""Open connections are counted by address and in all, and leave descriptors for everything else."""

import resource

import pytest

from server.runtime.http.connections import (
    CONNECTION_BYTES,
    MAX_DESCRIPTORS,
    MEMORY_SHARE,
    RESERVED_DESCRIPTORS,
    ConnectionLimits,
    raise_descriptor_limit,
)


def test_one_address_and_all_together_have_a_limit() -> None:
    limits = ConnectionLimits(total=3, per_address=2)

    assert [limits.open("a"), limits.open("a"), limits.open("a")] == [True, True, False]
    limits.close("a")
    assert limits.open("b")
    assert not limits.open("c")
    limits.close("c")
    limits.close("a")
    assert limits.open("c")


def test_a_closed_address_is_forgotten() -> None:
    limits = ConnectionLimits(total=10, per_address=2)
    for number in range(1000):
        limits.open(str(number))
        limits.close(str(number))

    assert not limits._open


@pytest.mark.parametrize(("descriptors", "total"), [(1024, (1024 - RESERVED_DESCRIPTORS) // 2), (100, 1)])
def test_descriptors_are_reserved(descriptors: int, total: int) -> None:
    assert ConnectionLimits.of(descriptors, 512, 2**40).total == total


def test_connections_leave_memory() -> None:
    assert ConnectionLimits.of(MAX_DESCRIPTORS, 512, 512 * CONNECTION_BYTES * MEMORY_SHARE).total == 512
    assert ConnectionLimits.of(MAX_DESCRIPTORS, 512, 1).total == 1


@pytest.mark.parametrize(("per_address", "limit"), [(512, 192), (100, 100)])
def test_one_address_leaves_half_of_all_connections_to_others(per_address: int, limit: int) -> None:
    assert ConnectionLimits.of(1024, per_address, 2**40).per_address == limit


@pytest.mark.parametrize(
    ("found", "raised"),
    [((1024, 4096), 4096), ((1024, 10**6), MAX_DESCRIPTORS), ((5000, 4096), 5000), ((1024, -1), MAX_DESCRIPTORS)],
)
def test_the_soft_limit_is_raised_to_the_hard_one(
    monkeypatch: pytest.MonkeyPatch, found: tuple[int, int], raised: int
) -> None:
    limits = [found]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))

    assert raise_descriptor_limit() == raised
    assert limits[-1] == ((raised, found[1]) if raised != found[0] else found)


def test_a_limit_that_cannot_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)

    assert raise_descriptor_limit() == 1024
