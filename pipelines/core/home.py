"""The home folder of the user that runs this process, which the user of a container may not have."""

import os
from pathlib import Path

from pipelines.core.errors import NoHomeError


def expanded(path: str | os.PathLike[str], name: str = "") -> Path:
    """Return a path with the home folder that `~` or `~user` stands for.

    Raises NoHomeError if there is none; its sentence begins with the `name` of the option.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        why = f"There is no home folder for {path}: write the whole path, or set HOME."
        raise NoHomeError(f"{name}: {why}" if name else why) from error


def has_home() -> bool:
    """Whether this user has a home folder: HOME is set, or the system knows the user."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True
