"""What oneDNN's convolutions save a processor: the demo's decoding in fp32 with torch's choice of them and with ours.

python -m benchmarks.convolution --pairs 5
"""

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.report import bootstrap, show
from pipelines.convolution import use_onednn
from pipelines.decode import decode_frames
from pipelines.demo import demo_folder


def load(*, with_onednn: bool) -> Any:
    """The demo's VAE."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(demo_folder(), subfolder="vae", torch_dtype=torch.float32)
    if with_onednn:
        use_onednn(vae)
    return vae


@torch.no_grad()
def seconds(vae: Any, latents: torch.Tensor) -> float:
    """Of one decoding."""
    began = time.perf_counter()
    for _ in decode_frames(vae, latents):
        pass
    return time.perf_counter() - began


def main() -> None:
    """Measure in pairs, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=[832, 480, 33], metavar=("WIDTH", "HEIGHT", "FRAMES"))
    options = parser.parse_args()
    width, height, num_frames = options.size
    usual, ours = load(with_onednn=False), load(with_onednn=True)
    scale = usual.config.scale_factor_spatial
    shape = (1, usual.config.z_dim, (num_frames - 1) // usual.config.scale_factor_temporal + 1)
    latents = torch.randn(*shape, height // scale, width // scale, generator=torch.Generator().manual_seed(0))
    for vae in (usual, ours):
        seconds(vae, latents[:, :, :2])
    pairs = [(seconds(usual, latents), seconds(ours, latents)) for _ in range(options.pairs)]
    ratios = [after / before for before, after in pairs]
    low, high = bootstrap(ratios)
    before, after = (statistics.median(each) for each in zip(*pairs, strict=True))
    rows = [
        (f"decoding {width}x{height}, {num_frames} frames, torch's choice", f"{before:.2f} s"),
        ("the same, all by oneDNN", f"{after:.2f} s"),
        ("ratio", f"{statistics.median(ratios):.2f} (95 %: {low:.2f} to {high:.2f})"),
    ]
    figures = {"size": options.size, "pairs": options.pairs, "ratio": statistics.median(ratios)}
    show("convolution", rows, {**figures, "torch_s": before, "onednn_s": after})


if __name__ == "__main__":
    main()
