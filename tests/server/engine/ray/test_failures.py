"""Sentences in place of what Ray says, which is taken from Ray 2.60."""

import pytest

from server.engine.ray.failures import explain


@pytest.mark.parametrize(
    ("said", "sentence", "is_permanent"),
    [
        ("", "does not answer, or this machine has not joined it", False),
        ("ConnectionError: Could not find any running Ray instance.", "does not answer", False),
        (
            "RuntimeError: Failed to connect to GCS. Last connection error:\nray.exceptions.AuthenticationError: RPC "
            "error: InvalidAuthToken: Authentication token is missing or incorrect.",
            "refuses this machine's token",
            True,
        ),
        (
            "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.52.0\n    Python: 3.12.1",
            "runs other versions. Version mismatch: The cluster was started with: Ray: 2.52.0 Python: 3.12.1",
            True,
        ),
        ("OSError: [Errno 98] Address already in use", "Choose others with --port", True),
        ("x" * 1000, "cannot be used: " + "x" * 300, False),
    ],
)
def test_what_ray_says_becomes_a_sentence(said: str, sentence: str, is_permanent: bool) -> None:
    error = explain("10.0.0.1:6379", said)

    assert sentence in str(error)
    assert error.is_permanent is is_permanent


def test_a_machine_in_no_cluster_is_told_what_to_do() -> None:
    error = explain("auto", "ConnectionError: Could not find any running Ray instance.")

    assert "This machine is in no cluster" in str(error)
    assert "paddock cluster head" in str(error)
    assert not error.is_permanent
