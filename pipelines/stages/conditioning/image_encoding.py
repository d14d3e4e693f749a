"""The image encoding stage: images → what the transformer is conditioned on besides the prompt.

diffusers encodes a video in which the given images are the first and the last frame, and all others are grey, as one
tensor. Here the grey frames need not exist at once (`vae_encoding`).
"""

from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.geometry import Geometry
from pipelines.stages.conditioning.images import Images, image_digest
from pipelines.stages.conditioning.vae_encoding import encode, in_groups, to_pixels

MAX_IMAGES = 32
"""Limit of requests' images whose embeddings stay in memory: 0.7 MB for each image."""


@dataclass(frozen=True, slots=True)
class ImageCondition:
    """What the transformer is conditioned on besides the prompt.

    `images` have the size that is generated. `tensors` are what the pipeline joins to the noise, (1, channels, t, h, w)
    each, in fp32. `embeds` are the image encoder's, (images, tokens, width); None for a model without one.
    """

    images: Images
    tensors: tuple[torch.Tensor, ...]
    embeds: torch.Tensor | None


class ImageEncoder:
    """The image encoder of a pipeline, if it has one, with a cache of the last MAX_IMAGES results."""

    def __init__(self, pipe: Any, device: torch.device) -> None:
        self._pipe = pipe
        self._device = device
        self._embeddings: OrderedDict[tuple[str, ...], torch.Tensor] = OrderedDict()

    def encode(self, images: Images) -> torch.Tensor | None:
        """Return the embeddings (images, tokens, width) of images, on the device; None without an image encoder."""
        if getattr(self._pipe, "image_encoder", None) is None:
            return None
        key = tuple(image_digest(image) for image in images.given)
        if key not in self._embeddings:
            self._embeddings[key] = self._encode(images.given)
        self._embeddings.move_to_end(key)
        while len(self._embeddings) > MAX_IMAGES:
            self._embeddings.popitem(last=False)
        return self._embeddings[key]

    def _encode(self, images: list[Image.Image]) -> torch.Tensor:
        # as `WanImageToVideoPipeline.encode_image`
        pixels = self._pipe.image_processor(images=images, return_tensors="pt").pixel_values.to(self._device)
        states = self._pipe.image_encoder(pixel_values=pixels, output_hidden_states=True).hidden_states
        embeddings: torch.Tensor = states[-2].to(self._device)
        return embeddings


def read_image_processor(folder: Path, side: int) -> Any:
    """Return the image processor in a folder, which resizes and normalises images to `side` pixels for the encoder.

    The library has two that differ by a rounding, and chooses by whether torchvision is installed. This is always the
    one without. Raises WeightsNotFoundError if it cannot be read, UnsupportedModelError for another side.
    """
    path = folder / "preprocessor_config.json"
    try:
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        sides = [set(dict(size).values()) for size in (processor.size, processor.crop_size)]
    # the library raises errors of many classes for a malformed file
    except Exception as error:
        raise WeightsNotFoundError(f"{path} cannot be read: {error}") from error
    if sides != [{side}, {side}]:
        found = " and ".join(str(length)[:20] for each in sides for length in each)
        raise UnsupportedModelError(f"{path} makes images of {found} pixels, and the image encoder takes {side}.")
    return processor


def condition_tensors(
    pipe: Any,
    images: Images,
    geometry: Geometry,
    after_group: Callable[[], None] = lambda: None,
    tile: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """Return what `WanImageToVideoPipeline.prepare_latents` returns besides the noise, for images of the full size.

    With a timestep for each token these are the image's normalised latents, (1, channels, 1, h, w), and a mask that is
    0 for the first latent frame, (1, 1, t, h, w). Otherwise it is one tensor: a mask of the given frames, which has a
    channel for each frame of a group, followed by the latents of all frames. `tile` is the longest side of tiles in
    pixels, None for whole frames. `after_group` is called after each group of frames is encoded; it may raise to end
    the encoding.
    """
    vae = pipe.vae
    scale = vae.config.scale_factor_temporal
    length = (geometry.full_num_frames - 1) // scale + 1
    first, last = (None if image is None else to_pixels(pipe, image, geometry) for image in (images.first, images.last))
    assert first is not None, "a request with a condition has an image"
    if pipe.config.expand_timesteps:
        latents = encode(vae, lambda: in_groups([first], scale), geometry, tile, after_group)
        mask = latents.new_ones(1, 1, length, *latents.shape[-2:])
        mask[:, :, 0] = 0
        return latents, mask
    # frames that are cut off at the end are the last image as well, so that the delivered video ends with it
    ends = 0 if last is None else geometry.full_num_frames - geometry.num_frames + 1
    latents = encode(vae, lambda: _groups(first, last, length, scale, ends), geometry, tile, after_group)
    mask = latents.new_zeros(1, scale, length, *latents.shape[-2:])
    mask[:, :, 0] = 1
    mask[:, scale - ends :, -1] = 1
    return (torch.cat([mask, latents], dim=1),)


def _groups(
    first: torch.Tensor, last: torch.Tensor | None, length: int, scale: int, ends: int
) -> Generator[torch.Tensor, None, None]:
    """Yield a video in groups of frames: `first`, grey ones, and `ends` times `last`. The images are (1, 3, H, W)."""
    yield first.unsqueeze(2)
    grey = first.new_zeros(1, 1, 1, 1, 1).expand(*first.shape[:2], scale, *first.shape[2:])
    for _ in range(length - 2):
        yield grey
    if length > 1:
        final = grey
        if last is not None:
            final = grey.clone()
            final[:, :, scale - ends :] = last.unsqueeze(2)
        yield final
