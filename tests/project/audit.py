"""Fails if a pinned dependency has a known vulnerability, by pip-audit.

python -m tests.project.audit [options of pip-audit, such as --ignore-vuln ID]

pip-audit succeeds if its source knows none of the packages, as with a mirror, and fails if it cannot reach the source.
Neither says anything about the dependencies, so both are reported clearly and are no failure.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
# timeout for each package
SECONDS = "10"
# messages of pip-audit when its source cannot be reached
UNREACHABLE = ("Could not connect", "is not redirecting", "requests.exceptions.", "ServiceError")


def audit(options: list[str]) -> subprocess.CompletedProcess[str]:
    """Run pip-audit on the pinned versions."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    output = ("--format", "json", "--progress-spinner", "off", "--timeout", SECONDS)
    return subprocess.run([*command, *output, *options], capture_output=True, text=True, check=False)


def verdict(ended: subprocess.CompletedProcess[str]) -> tuple[bool, list[str]]:
    """Whether the check passes, and the lines to print."""
    try:
        packages: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (ended.stderr.strip().splitlines() or ["no output"])[-1]
        if any(sign in ended.stderr for sign in UNREACHABLE):
            return True, [_skipped(why)]
        return False, [f"pip-audit failed: {why}"]
    found = [
        f"{package['name']} {package['version']} has {known['id']}, fixed in {' '.join(known['fix_versions']) or '-'}"
        for package in packages
        for known in package.get("vulns", ())
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return True, [_skipped("pip-audit's source knows none of the packages")]
    said = [f"{len(packages) - len(unknown)} of {len(packages)} dependencies were audited"]
    if unknown:
        said.append(f"not audited, because pip-audit's source does not know them: {', '.join(unknown)}")
    return not found, [*said, *found]


def _skipped(why: str) -> str:
    return f"!!! THE AUDIT OF DEPENDENCIES WAS SKIPPED: {why} !!!"


if __name__ == "__main__":
    passes, sentences = verdict(audit(sys.argv[1:]))
    print(*sentences, sep="\n")
    sys.exit(0 if passes else 1)
