"""What a check found, and the names of findings that others look for."""

from dataclasses import dataclass
from enum import StrEnum

MISSING_WEIGHTS, DISK_FOR_WEIGHTS = "weights", "disk for weights"
"""The subjects of findings about downloads."""


class Verdict(StrEnum):
    """What a finding means for a server on this machine."""

    OK = "ok"
    WARN = "warning"
    FAIL = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: its subject, the verdict and a sentence, which says how to fix a failure."""

    about: str
    verdict: Verdict
    sentence: str


def ok(about: str, sentence: str) -> Finding:
    """A finding of what is as it should be."""
    return Finding(about, Verdict.OK, sentence)


def warn(about: str, sentence: str) -> Finding:
    """A finding that a server starts with."""
    return Finding(about, Verdict.WARN, sentence)


def fail(about: str, sentence: str) -> Finding:
    """A finding that no server starts with."""
    return Finding(about, Verdict.FAIL, sentence)


def gb(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 10**9:.0f} GB"
