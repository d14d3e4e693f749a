"""The paths of the demo models' weights."""

from pathlib import Path


def demo_folder() -> Path:
    """The folder of the demo weights, in diffusers' layout."""
    return Path(__file__).parent / "weights"


def demo_sound_folder() -> Path:
    """The folder of the demo's text-to-sound weights, in diffusers' layout."""
    return Path(__file__).parent / "sound_weights"
