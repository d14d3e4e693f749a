"""The circuit breaker of a device: growing waits, and unhealthy after failures of several generations."""

import pytest

from server.core.circuit_breaker import CircuitBreaker, Health, Tolerance


class Device:
    """A circuit breaker with its own clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.circuit = CircuitBreaker(Tolerance(failures=3, cooldown=60), lambda: self.now)

    def fail(self, *about: str) -> list[float]:
        """Fail at each of these as soon as it may be tried; returns the wait after each failure."""
        waits = []
        for each in about:
            self.now += self.circuit.wait
            self.circuit.failed(each, f"{each} ended it")
            waits.append(self.circuit.wait)
        return waits


@pytest.fixture
def device() -> Device:
    return Device()


def test_the_wait_doubles_with_each_failure_up_to_a_minute(device: Device) -> None:
    assert device.fail(*["poison"] * 10) == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_success_resets_the_wait(device: Device) -> None:
    device.fail("a", "b")
    device.circuit.succeeded()

    assert device.circuit.reason is None
    assert device.fail("c", "d") == [0, 1]
    assert device.circuit.health is Health.HEALTHY
    assert device.circuit.failures == 4


def test_one_generation_alone_never_makes_a_device_unhealthy(device: Device) -> None:
    device.fail(*["poison"] * 50)
    assert device.circuit.health is Health.HEALTHY


def test_failures_of_several_generations_make_a_device_unhealthy_until_the_cooldown_ends(device: Device) -> None:
    assert device.fail("a", "b", "c") == [0, 1, 60]
    assert device.circuit.health is Health.UNHEALTHY
    assert device.circuit.reason == "c ended it"

    device.now += 59
    assert device.circuit.health is Health.UNHEALTHY
    device.now += 1
    assert (device.circuit.health, device.circuit.wait) == (Health.HALF_OPEN, 0)

    device.circuit.succeeded()
    assert device.circuit.health is Health.HEALTHY


def test_a_failed_trial_doubles_the_wait_up_to_15_minutes(device: Device) -> None:
    device.fail("a", "b", "c")
    assert device.fail(*["c"] * 6) == [120, 240, 480, 900, 900, 900]
    assert device.circuit.health is Health.UNHEALTHY

    device.circuit.succeeded()
    assert device.fail("d", "e", "f") == [0, 1, 60]


def test_a_cooldown_of_an_hour_is_not_shortened() -> None:
    circuit = CircuitBreaker(Tolerance(failures=1, cooldown=3600), lambda: 0.0)
    circuit.failed("a", "it exited with status 1")

    assert circuit.wait == 3600
