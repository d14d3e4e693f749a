"""The path of the demo model's weights."""

from pathlib import Path


def demo_folder() -> Path:
    """The folder of the demo weights, in diffusers' layout."""
    return Path(__file__).parent / "weights"
