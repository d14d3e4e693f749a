"""The linear map from a VAE's latents to RGB, for previews. It depends on the VAE; weights may bring their own."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from pipelines.core.model import LatentRgb
from pipelines.hub.local import LATENT_RGB

_TABLE = TypeAdapter(LatentRgb)

log = logging.getLogger("paddock.preview")


def project(latents: torch.Tensor, latent_rgb: LatentRgb) -> torch.Tensor:
    """Convert normalised latents (channels, h, w) to RGB bytes (h, w, 3), on the same device."""
    factors = torch.tensor(latent_rgb.factors, device=latents.device)
    bias = torch.tensor(latent_rgb.bias, device=latents.device)
    rgb = torch.einsum("chw,cr->hwr", latents.float(), factors) + bias
    return rgb.nan_to_num(0.0).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def read_latent_rgb(folder: Path) -> LatentRgb | None:
    """Return the map in a folder of weights; None if there is none, or with a warning if it cannot be read."""
    path = folder / LATENT_RGB
    try:
        return _TABLE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is ignored: %s", path, error)
        return None


def write_latent_rgb(latent_rgb: LatentRgb, folder: Path) -> None:
    """Write a map into a folder of weights."""
    channels = ",\n    ".join(json.dumps(triple) for triple in latent_rgb.factors)
    bias = json.dumps(latent_rgb.bias)
    (folder / LATENT_RGB).write_text(f'{{\n  "factors": [\n    {channels}\n  ],\n  "bias": {bias}\n}}\n')


def matching(latent_rgb: LatentRgb | None, vae: Any) -> LatentRgb | None:
    """Return the map if it has as many channels as the VAE's latents; otherwise None, with a warning."""
    if latent_rgb is None or len(latent_rgb.factors) == vae.config.z_dim:
        return latent_rgb
    log.warning(
        "there are no previews: the map from latents to RGB is for %d channels, and the VAE has %d",
        len(latent_rgb.factors),
        vae.config.z_dim,
    )
    return None
