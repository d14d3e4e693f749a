"""A small model of Wan's architecture, trained, that runs on any CPU: for trying the server without a GPU."""

from pathlib import Path


def demo_folder() -> Path:
    """The demo weights, in diffusers' layout."""
    return Path(__file__).parent / "weights"
