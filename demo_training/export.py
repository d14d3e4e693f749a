"""Combine the trained parts into a folder in diffusers' layout, for `WanPipeline.from_pretrained`.

python -m demo_training.export --state FOLDER --to FOLDER
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline

from demo_training.fit_latent_rgb import fit_weights
from demo_training.train_text import load_text_encoder
from demo_training.train_transformer import SHIFT, load_average


def export(state: Path, folder: Path, flow_shift: float = SHIFT, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the pipeline of a finished or unfinished training, with weights in `dtype`."""
    tokenizer, text_encoder = load_text_encoder(state / "text")
    vae = AutoencoderKLWan.from_pretrained(state / "vae" / "vae").to(dtype)
    # the path on this machine does not belong in the published file
    vae.register_to_config(_name_or_path="")
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.to(dtype),
        transformer=load_average(state).to(dtype),
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift
        ),
        # each token has its own time, so that a first frame can be given
        expand_timesteps=True,
    ).save_pretrained(folder)
    fit_weights(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--flow-shift", type=float, default=SHIFT)
    options = parser.parse_args()
    export(options.state, options.to, options.flow_shift)
