"""Wan's models that make videos from images: 2.1 I2V 14B, 2.1 FLF2V 14B with a last image, and 2.2 I2V A14B.

The VAE encodes a video whose other frames are grey, which the transformer sees beside the noise. Those of Wan2.1 also
attend to what an image encoder makes of the images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError
from pipelines.models.family import Configs, ImageInputs, InputUse, Part, PartKind
from pipelines.models.model_index import ModelIndex
from pipelines.models.wan import WanTextToVideo
from pipelines.planning.shapes import ModelShape, TransformerShape


class WanImageToVideo(WanTextToVideo):
    """Models that `WanImageToVideoPipeline` runs. Wan2.2's A14B has a second transformer, and no image encoder."""

    pipeline_class = "WanImageToVideoPipeline"
    folder_classes = frozenset({"WanImageToVideoPipeline"})
    pipeline = image_pipeline = "diffusers:WanImageToVideoPipeline"
    parts = (
        *WanTextToVideo.parts,
        Part(
            "image_encoder",
            PartKind.IMAGE_ENCODER,
            "transformers:CLIPVisionModel",
            is_optional=True,
            # transformers 5 removed it from the class
            stored_prefix="vision_model.",
        ),
    )
    optional_settings = frozenset({"image_processor"})

    def images(self, shape: ModelShape | None) -> ImageInputs:
        if shape is None:
            return ImageInputs(InputUse.REQUIRED, InputUse.OPTIONAL)
        if shape.transformer.pos_embed_seq_len:
            last = InputUse.REQUIRED
        else:
            # the transformer would not know which of an image encoder's tokens are of which image
            last = InputUse.NONE if shape.image_encoder or shape.expand_timesteps else InputUse.OPTIONAL
        return ImageInputs(InputUse.REQUIRED, last)

    def takes_video(self, shape: ModelShape | None) -> bool:
        # the transformer would see the frames of the image beside those of the video
        return False

    def shape(self, configs: Configs) -> ModelShape:
        shape = super().shape(configs)
        transformer, encoder = shape.transformer, shape.image_encoder
        if (encoder and encoder.hidden_size) != transformer.image_dim:
            raise UnsupportedModelError(
                f"The transformer needs image embeddings of width {transformer.image_dim or 'none'}, and the image "
                f"encoder makes {'none' if encoder is None else encoder.hidden_size}."
            )
        if transformer.pos_embed_seq_len and encoder and transformer.pos_embed_seq_len != 2 * encoder.tokens:
            raise UnsupportedModelError(
                f"The transformer has positions for {transformer.pos_embed_seq_len} image tokens, and two images have "
                f"{2 * encoder.tokens}."
            )
        return shape

    def read_index(self, folder: Path) -> ModelIndex:
        index = super().read_index(folder)
        if ("image_encoder" in index.components) != ("image_processor" in index.components):
            raise UnsupportedModelError(
                f"{index.path} must list both an image_encoder and an image_processor, or none."
            )
        return index

    def _encoded_frames(self, transformer: TransformerShape, vae: Mapping[str, Any], expand_timesteps: bool) -> int:
        return 1 if expand_timesteps else int(vae["scale_factor_temporal"])
