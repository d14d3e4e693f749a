"""Places where a server may have to run: prefixes of commands that have them run there."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.server_process import needs

UNKNOWN = 54_321
"""A user id that no system knows."""

_OF_A_USER = ("HOME", "LNAME", "LOGNAME", "USER", "USERNAME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME")

_SEALED = r"""
set -e
folder=$1; shift
mount --bind "$folder" "$folder"
while read -r _ _ _ _ place _; do
  case $place in
    "$folder"|/proc|/proc/*|/sys|/sys/*) ;;
    *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;;
  esac
done < /proc/self/mountinfo
for place in / /tmp /var/tmp /dev/shm "$PWD" "${HOME:-/}"; do
  ! touch "$place/.paddock-probe" 2>/dev/null || { rm "$place/.paddock-probe"; echo "$place is writable"; exit 99; }
done
exec "$@"
"""


def without_a_user() -> tuple[str, ...]:
    """Run a command as a user id without a name and a home folder, with the caller's own rights to files."""
    ids = (f"--map-user={UNKNOWN}", f"--map-group={UNKNOWN}")
    prefix = (needs("unshare"), "--user", *ids, "env", *(part for name in _OF_A_USER for part in ("-u", name)))
    return _permitted(prefix)


def sealed(folder: Path) -> tuple[str, ...]:
    """Run a command where one folder alone can be written to: no temporary, no current one, no shared memory."""
    prefix = (needs("unshare"), "--user", "--map-root-user", "--mount", "bash", "-c", _SEALED, "bash", str(folder))
    return _permitted(prefix)


def _permitted(prefix: tuple[str, ...]) -> tuple[str, ...]:
    """Return a prefix. Where namespaces are not permitted the test is skipped, but fails in CI."""
    tried = subprocess.run([*prefix, "true"], capture_output=True, check=False, text=True)
    if tried.returncode != 0:
        why = f"namespaces are not permitted here: {tried.stdout}{tried.stderr}".strip()
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return prefix
