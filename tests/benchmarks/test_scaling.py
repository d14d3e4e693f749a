"""The simulation of many devices: it runs, and measures what it says."""

import json
import sys

import pytest

from benchmarks.scaling import claim, simulation

SMALL = [
    "--generation",
    "0.4",
    "--queued",
    "60",
    "--tenants",
    "3",
    "--history",
    "5",
    "--warm-up",
    "1",
    "--seconds",
    "4",
]


def figures(shown: str) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = json.loads(shown.splitlines()[-1])
    return found


def test_devices_of_two_servers_take_from_one_queue(capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--devices", "4", "--servers", "2", *SMALL])

    found = figures(capsys.readouterr().out)
    assert found["command"] == " ".join(["python -m benchmarks.scaling.simulation --devices 4 --servers 2", *SMALL])
    baseline, case = found["cases"]
    assert [(each["devices"], each["servers"], each["queued"]) for each in (baseline, case)] == [
        (1, 1, 100),
        (4, 2, 60),
    ]
    assert case["start"]["count"] == 4
    assert case["runs_per_second"] > 0
    for name in ("claim", "enqueue", "finish"):
        assert 0 < case["calls"][name]["p50"] <= case["calls"][name]["max"]
    database = case["database"]
    assert database["statements_per_second"] > database["commits_per_second"] > 0
    assert {"lock of claims", "heads of the queue", "generation, new"} <= set(database["kinds"])


def test_idle_devices_get_what_is_enqueued(capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--devices", "3", "--sqlite", "--idle", *SMALL])

    _, case = figures(capsys.readouterr().out)["cases"]
    assert (case["servers"], case["queued"], case["database"]) == (1, 0, None)
    assert case["enqueued_to_working"]["count"] > 0


def test_a_claim_is_measured_with_its_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--queued", "50", "--tenants", "2", "--claims", "5", "--history", "5", "--plans"]
    monkeypatch.setattr(sys, "argv", ["claim", *options])

    claim.main()

    shown = capsys.readouterr().out
    assert "Index Only Scan using queue_by_tenant" in shown
    (by_tenants,) = figures(shown)["tenants"].values()
    for way in ("no model", "going on"):
        assert by_tenants[way]["statements"] > 0
        assert 0 < by_tenants[way]["p50_ms"] <= by_tenants[way]["p99_ms"]
