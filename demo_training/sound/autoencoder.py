"""The demo's autoencoder of sounds, and the loss its decoder is trained with.

Some of the latents' channels carry the sound (`demo_training.sound.basis`). The others are nothing but normal noise,
which the decoder turns into hissing and rushing: the encoder adds it, and the transformer leaves it as it is.
"""

from collections.abc import Iterable
from math import expm1, log
from typing import Any, Final

import torch
from diffusers import LongCatAudioDiTVae

from demo_training.sound.basis import RATIO, SIGNAL
from demo_training.sound.sounds import RATE

STRIDES: Final = (64, 4)
NOISE: Final = 32
LATENT_CHANNELS: Final = SIGNAL + NOISE
DEVIATION: Final = 0.1
"""Deviation of the signal channels about what the encoder gives."""

WINDOWS: Final = (128, 512, 2048)
"""Windows of the loss's spectrograms, in samples."""

_FLOOR: Final = 2e-3
"""Added to magnitudes before their logarithm: what is much fainter does not count."""

_LINEAR: Final = 25.0
"""Weight of the differences of magnitudes beside those of their logarithms: it makes tones as loud as they are."""


def build_autoencoder() -> Any:
    """The autoencoder, untrained. Nearly all of it works at 250 and 62.5 Hz, so that it is cheap to train."""
    vae = LongCatAudioDiTVae(
        in_channels=1,
        channels=2,
        c_mults=[32, 64],
        strides=list(STRIDES),
        latent_dim=LATENT_CHANNELS,
        encoder_latent_dim=2 * LATENT_CHANNELS,
        act_fn="snake",
        downsample_shortcut="none",
        upsample_shortcut="none",
        out_shortcut="none",
        in_shortcut="none",
        downsampling_ratio=RATIO,
        sample_rate=RATE,
        scale=1.0,
    )
    _start_with_cosines(vae)
    fix_deviations(vae)
    return vae


@torch.no_grad()
def _start_with_cosines(vae: Any) -> None:
    """Initialise the layers between 16 kHz and 250 Hz as a modified cosine transform and its inverse.

    From random weights nearly all of the training would go into finding such filters.
    """
    bands = STRIDES[0]
    place, band = torch.arange(2 * bands) + 0.5, torch.arange(bands) + 0.5
    filters = torch.cos(torch.pi / bands * (place + bands / 2) * band[:, None]) * torch.sin(
        torch.pi / 2 / bands * place
    )
    filters = filters[:, None] * (2 / bands) ** 0.5
    first, down = vae.encoder.layers[0], vae.encoder.layers[1].layers[4]
    up, last = vae.decoder.layers[-4].layers[1], vae.decoder.layers[-2]
    middle = torch.zeros(2, 1, 7)
    middle[:, :, 3] = 0.5**0.5
    for unit in (*vae.encoder.layers[1].layers[:3], *vae.decoder.layers[-4].layers[2:]):
        # nearly nothing is added at 16 kHz
        unit.layers[3].weight_g.mul_(0.05)
        unit.layers[3].bias.zero_()
    for layer, weight in (
        (first, middle), (down, filters.repeat(1, 2, 1) * 0.5**0.5), (up, filters.repeat(1, 2, 1) * 0.5**0.5),
        (last, middle.transpose(0, 1)),
    ):  # fmt: skip
        layer.weight_v.copy_(weight)
        layer.weight_g.copy_(weight.flatten(1).norm(dim=1)[:, None, None])
        if layer.bias is not None:
            layer.bias.zero_()


@torch.no_grad()
def fix_deviations(vae: Any) -> None:
    """Let the encoder give noise channels the mean 0 and the deviation 1, and signal channels a fixed deviation."""
    last = vae.encoder.layers[-1]
    last.weight_g[SIGNAL:] = 0
    last.bias[SIGNAL:] = 0
    for first, count, deviation in (
        (LATENT_CHANNELS, SIGNAL, DEVIATION),
        (LATENT_CHANNELS + SIGNAL, NOISE, 1.0),
    ):
        # the inverse of softplus
        last.bias[first : first + count] = log(expm1(deviation))


def add_noise(signal: torch.Tensor, deviation: float = DEVIATION) -> torch.Tensor:
    """Random latents (b, LATENT_CHANNELS, latents) for signal channels (b, SIGNAL, latents)."""
    noise = torch.randn(len(signal), LATENT_CHANNELS, signal.shape[2])
    return torch.cat([signal + deviation * noise[:, :SIGNAL], noise[:, SIGNAL:]], 1)


def spectra(sounds: torch.Tensor) -> list[torch.Tensor]:
    """Magnitudes (b, frequencies, frames) of sounds (b, samples), one for each window."""
    result = []
    for size in WINDOWS:
        window = torch.hann_window(size)
        transformed = torch.stft(
            sounds, size, size // 4, window=window / window.square().sum().sqrt(), return_complex=True
        )
        result.append((torch.view_as_real(transformed).square().sum(-1) + 1e-9).sqrt())
    return result


def distance(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> torch.Tensor:
    """How much the spectra of sounds differ, low frequencies weighted as the ear does."""
    total = torch.zeros(())
    for one, other in zip(first, second, strict=True):
        weight = 1 / (700 + torch.linspace(0, RATE / 2, one.shape[1]))
        weight = (weight / weight.sum())[:, None]
        logarithms = ((one + _FLOOR).log() - (other + _FLOOR).log()).square()
        total = total + ((logarithms * weight).sum(1) + 1e-6).sqrt().mean()
        total = total + _LINEAR * ((one - other).abs() * weight).sum(1).mean()
    return total / len(WINDOWS)


def energy_loss(target: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The spectral energy distance of two decoded sounds with different noise from the true one, all (b, samples).

    It is least if decoded noise varies as true noise does (Gritsenko et al. 2020, https://arxiv.org/abs/2008.01160);
    a plain spectral loss would turn noise into a buzz.
    """
    true, first, second = spectra(target), spectra(one), spectra(other)
    return distance(true, first) + distance(true, second) - distance(first, second)
