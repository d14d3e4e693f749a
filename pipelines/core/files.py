"""Bytes that outlive a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole, old or new, at any moment."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    sync(part)
    part.rename(path)


def part_path(path: Path) -> Path:
    """Where a file is written until it is whole and takes its name."""
    return path.with_name(f".{path.name}.part")
