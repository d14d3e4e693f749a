"""The audit of dependencies fails for known vulnerabilities and errors of pip-audit, and for nothing else."""

import json
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.project.audit import verdict

GOOD: dict[str, Any] = {"name": "good", "version": "1.0", "vulns": []}
BAD_REPORT: dict[str, Any] = {
    "name": "bad",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}],
}
UNKNOWN: dict[str, Any] = {"name": "unknown", "skip_reason": "Dependency not found"}


def said(*packages: dict[str, Any], status: int = 0) -> CompletedProcess[str]:
    return CompletedProcess([], status, json.dumps({"dependencies": packages, "fixes": []}), "")


def test_a_known_vulnerability_fails_with_its_name() -> None:
    passes, sentences = verdict(said(GOOD, BAD_REPORT, UNKNOWN, status=1))

    assert not passes
    assert "bad 2.0 has PYSEC-1, fixed in 2.1" in sentences


def test_unknown_packages_are_reported_and_are_no_failure() -> None:
    assert verdict(said(GOOD, UNKNOWN)) == (
        True,
        ["1 of 2 dependencies were audited", "not audited, because pip-audit's source does not know them: unknown"],
    )
    assert verdict(said(GOOD)) == (True, ["1 of 1 dependencies were audited"])


@pytest.mark.parametrize(
    "stderr",
    [
        "ERROR:pip_audit._cli:Could not connect to the vulnerability feed\nERROR:pip_audit._cli:Tip: your network",
        "Traceback (most recent call last):\nrequests.exceptions.ProxyError: HTTPSConnectionPool(...)",
    ],
)
def test_offline_is_reported_clearly_and_is_no_failure(stderr: str) -> None:
    for ended in (CompletedProcess([], 1, "", stderr), said(UNKNOWN, UNKNOWN)):
        passes, (sentence,) = verdict(ended)
        assert passes
        assert "AUDIT OF DEPENDENCIES WAS SKIPPED" in sentence


def test_an_audit_that_fails_for_another_reason_is_a_failure() -> None:
    assert verdict(CompletedProcess([], 1, "", "No module named pip_audit")) == (
        False,
        ["pip-audit failed: No module named pip_audit"],
    )
