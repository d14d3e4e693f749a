"""What a process and its children learn from their environment about where they may write."""

import getpass
import os
import shutil
import tempfile
from pathlib import Path

from pipelines.core.home import has_home

TEMPORARY = "tmp"
"""The folder of temporary files in a data directory. The start of a server empties it."""


def use_data_dir(data_dir: Path) -> None:
    """Have this process and its children write to a data directory what belongs nowhere else.

    Temporary files go there, since the system's folder for them may be read-only; a server makes the folder. Without a
    home folder (a user of a container may have none) it is the home folder as well: libraries that ask for one would
    else write to the current folder. Libraries also ask for the user's name. Call it before sqlite3 is imported.
    """
    os.environ["TMPDIR"] = str(data_dir / TEMPORARY)
    # a name that was found before is remembered
    tempfile.tempdir = None
    if not has_home():
        os.environ["HOME"] = str(data_dir)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def empty_temporary(data_dir: Path) -> None:
    """Make the folder of temporary files, without those of processes that were killed. Raises OSError.

    Call it while the data directory is locked.
    """
    folder = data_dir / TEMPORARY
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
