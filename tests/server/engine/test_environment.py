"""The environment of workers."""

import pytest

from server.engine.subprocess.environment import worker_environment


def test_a_worker_has_no_credentials_of_what_only_the_server_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    of_stores = ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS")
    names = (*of_stores, "PADDOCK_ENHANCE_KEY")
    for name in names:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HF_HOME", "/weights")

    environment = worker_environment("cpu")

    assert environment.keys().isdisjoint(names)
    assert environment["HF_HOME"] == "/weights"
