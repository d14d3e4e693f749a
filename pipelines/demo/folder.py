"""Where the weights of the demo's models are, and how the one for sounds is run."""

from pathlib import Path

from pipelines.core.model import SoundSpec


def demo_folder() -> Path:
    """The folder of the demo weights, in diffusers' layout."""
    return Path(__file__).parent / "weights"


def demo_sound_folder() -> Path:
    """The folder of the demo's text-to-sound weights, in diffusers' layout."""
    return Path(__file__).parent / "sound_weights"


def demo_sound() -> SoundSpec:
    """The demo's model for sounds: at guidance 2 its rhythms are nearer to the drawn ones than at 4."""
    return SoundSpec(
        str(demo_sound_folder()),
        "LongCatAudioDiTPipeline",
        max_seconds=30.0,
        num_inference_steps=16,
        guidance_scale=2.0,
        id="demo-sound",
    )
