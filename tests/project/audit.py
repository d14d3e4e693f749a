"""Whether vulnerabilities of the pinned dependencies are known, by pip-audit: a failure if so.

python -m tests.project.audit [pip-audit's own options, as --ignore-vuln ID]

pip-audit itself ends well where its source knows none of the packages, as a mirror does, and badly where it cannot be
reached. Neither says anything about the dependencies: both are told, loudly, and are no failure.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
# an answer is waited for so long, for each package
SECONDS = "10"
# what pip-audit says when it did not get through
UNREACHABLE = ("Could not connect", "is not redirecting", "requests.exceptions.", "ServiceError")


def audit(options: list[str]) -> subprocess.CompletedProcess[str]:
    """What pip-audit finds about the pins, each as it is written there."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    told = ("--format", "json", "--progress-spinner", "off", "--timeout", SECONDS)
    return subprocess.run([*command, *told, *options], capture_output=True, text=True, check=False)


def verdict(ended: subprocess.CompletedProcess[str]) -> tuple[bool, list[str]]:
    """Whether the check passes, and what is to be said about it."""
    try:
        packages: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if any(sign in ended.stderr for sign in UNREACHABLE):
            return True, [_skipped(why)]
        return False, [f"pip-audit failed: {why}"]
    found = [
        f"{package['name']} {package['version']} has {known['id']}, mended in {' '.join(known['fix_versions']) or '-'}"
        for package in packages
        for known in package.get("vulns", ())
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return True, [_skipped("pip-audit's source knows none of the packages")]
    said = [f"{len(packages) - len(unknown)} of {len(packages)} dependencies were audited"]
    if unknown:
        said.append(f"not audited, as pip-audit's source does not know them: {', '.join(unknown)}")
    return not found, [*said, *found]


def _skipped(why: str) -> str:
    return f"!!! THE AUDIT OF DEPENDENCIES WAS SKIPPED, nothing is known about them: {why} !!!"


if __name__ == "__main__":
    passes, sentences = verdict(audit(sys.argv[1:]))
    print(*sentences, sep="\n")
    sys.exit(0 if passes else 1)
