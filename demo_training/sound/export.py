"""Combine the trained parts into a folder in diffusers' layout, for `LongCatAudioDiTPipeline.from_pretrained`.

python -m demo_training.sound.export --state FOLDER --to FOLDER
"""

import argparse
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LongCatAudioDiTPipeline

from demo_training.sound.train_autoencoder import load_autoencoder
from demo_training.sound.train_text import load_text_encoder
from demo_training.sound.train_transformer import load_average


def export(state: Path, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the pipeline of a finished or unfinished training, with weights in `dtype`."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, invert_sigmas=True)
    tokenizer, text_encoder = load_text_encoder(state / "text")
    LongCatAudioDiTPipeline(
        vae=load_autoencoder(state).to(dtype),
        text_encoder=text_encoder.to(dtype),
        tokenizer=tokenizer,
        transformer=load_average(state).to(dtype),
        scheduler=scheduler,
    ).save_pretrained(folder)
    # this pipeline's index names its scheduler, but it is not written with the rest
    scheduler.save_pretrained(folder / "scheduler")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    export(options.state, options.to)
