"""Where the demo model's weights are."""

from pathlib import Path


def demo_folder() -> Path:
    """The demo weights, in diffusers' layout."""
    return Path(__file__).parent / "weights"
