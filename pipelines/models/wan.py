"""Wan's models that make videos from text: 2.1 14B and 1.3B, 2.2 A14B with two transformers, and 2.2 TI2V 5B.

The latter also takes an image.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.geometry import Geometry
from pipelines.models.family import (
    Configs,
    ImageInputs,
    InputUse,
    LoraLayout,
    ModelFamily,
    Part,
    PartKind,
    SingleFileLayout,
)
from pipelines.planning.shapes import ImageEncoderShape, ModelShape, TextEncoderShape, TransformerShape, VaeShape

_TRANSFORMER = "diffusers:WanTransformer3DModel"

_SINGLE_FILE = SingleFileLayout(
    prefixes=("model.diffusion_model.", "diffusion_model.", "transformer."),
    checkpoint="wan",
    converter="pipelines.loading.single_file:convert_wan_transformer",
    typical="blocks.0.attn1.",
    description="Wan transformer",
)

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE_ATTENTION = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
_IMAGE_EMBEDDING = {"proj.0": "norm1", "proj.1": "ff.net.0.proj", "proj.3": "ff.net.2", "proj.4": "norm2"}
_IMAGE_BLOCK_LAYERS = {f"cross_attn.{theirs}": f"attn2.{ours}" for theirs, ours in _IMAGE_ATTENTION.items()}
_IMAGE_LAYERS = {
    f"img_emb.{theirs}": f"condition_embedder.image_embedder.{ours}"
    for theirs, ours in {**_IMAGE_EMBEDDING, "emb_pos": "pos_embed"}.items()
}

_LORA = LoraLayout(
    layers={
        "patch_embedding": "patch_embedding",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
        **_IMAGE_LAYERS,
    },
    block_layers={
        **{f"self_attn.{theirs}": f"attn1.{ours}" for theirs, ours in _ATTENTION.items()},
        **{f"cross_attn.{theirs}": f"attn2.{ours}" for theirs, ours in _ATTENTION.items()},
        "ffn.0": "ffn.net.0.proj",
        "ffn.2": "ffn.net.2",
        # the first two norms of the original have no weights
        "norm3": "norm2",
        "modulation": "scale_shift_table",
        **_IMAGE_BLOCK_LAYERS,
    },
    image_layers=frozenset({*_IMAGE_LAYERS.values(), *_IMAGE_BLOCK_LAYERS.values()}),
    tables=frozenset({"scale_shift_table", "pos_embed"}),
    # ComfyUI; PEFT; DiffSynth; musubi-tuner and others of kohya's; VideoX-Fun has two underscores
    prefixes=("model.", "diffusion_model.", "base_model.model.", "pipe.dit.", "lora_unet__", "lora_unet_"),
    left_aside="lora_te",
)

_VAE_DEFAULTS = {"scale_factor_spatial": 8, "scale_factor_temporal": 4}
"""As in `AutoencoderKLWan`: the published configurations of Wan2.1's VAE are older than these fields."""


class WanTextToVideo(ModelFamily):
    """Models that `WanPipeline` runs. Wan2.2's A14B has a second transformer for the less noisy steps."""

    pipeline_class = "WanPipeline"
    folder_classes = frozenset({"WanPipeline"})
    pipeline = "diffusers:WanPipeline"
    parts: tuple[Part, ...] = (
        Part("transformer", PartKind.DENOISER, _TRANSFORMER, single_file=_SINGLE_FILE, lora=_LORA),
        Part(
            "transformer_2",
            PartKind.DENOISER,
            _TRANSFORMER,
            is_optional=True,
            single_file=_SINGLE_FILE,
            lora=_LORA,
        ),
        Part("text_encoder", PartKind.TEXT_ENCODER, "transformers:UMT5EncoderModel"),
        Part("vae", PartKind.VAE, "diffusers:AutoencoderKLWan"),
    )
    settings = frozenset({"scheduler", "tokenizer"})
    image_pipeline = "diffusers:WanImageToVideoPipeline"
    # WanPipeline.check_inputs
    side_multiple = 16
    loop_tensors = ("latents",)
    repeated_inputs = ("hidden_states", "timestep", "encoder_hidden_states_image")
    text_input = "encoder_hidden_states"
    prompt_cleaner = "diffusers.pipelines.wan.pipeline_wan:prompt_clean"
    activations = "pipelines.layers.wan.transformer:use_activations"

    def shape(self, configs: Configs) -> ModelShape:
        try:
            vae = {**_VAE_DEFAULTS, **configs["vae"]}
            stages = {"base_dim": vae.get("decoder_base_dim") or vae["base_dim"], "encoder_base_dim": vae["base_dim"]}
            transformers = [
                _transformer(configs[part.name], part.name) for part in self.denoisers if part.name in configs
            ]
            expand_timesteps = bool(configs.get("pipeline", {}).get("expand_timesteps"))
            if not transformers or len(set(transformers)) > 1:
                raise UnsupportedModelError("The model's two transformers differ in shape, which is not supported.")
            shape = ModelShape(
                transformer=transformers[0],
                text_encoder=TextEncoderShape(**_pick(TextEncoderShape, configs["text_encoder"], "text_encoder")),
                vae=VaeShape(**_pick(VaeShape, {**vae, **stages}, "vae")),
                image_encoder=_image_encoder(configs.get("image_encoder")),
                encoded_frames=self._encoded_frames(transformers[0], vae, expand_timesteps),
                experts=len(transformers),
                expand_timesteps=expand_timesteps,
                side_multiple=self.side_multiple,
            )
            return replace(shape, video_frames=vae["scale_factor_temporal"] if self.takes_video(shape) else 0)
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedModelError(f"The configurations of the model's parts are incomplete: {error}.") from error

    def images(self, shape: ModelShape | None) -> ImageInputs:
        # the image's tokens have the timestep 0
        takes_image = shape is None or shape.expand_timesteps
        return ImageInputs(InputUse.OPTIONAL if takes_image else InputUse.NONE)

    def takes_video(self, shape: ModelShape | None) -> bool:
        return True

    def _encoded_frames(self, transformer: TransformerShape, vae: Mapping[str, Any], expand_timesteps: bool) -> int:
        # with a timestep for each token, the image alone is encoded
        return 1 if expand_timesteps else 0

    def forward_inputs(self, shape: ModelShape, geometry: Geometry, text_tokens: int) -> dict[str, tuple[int, ...]]:
        scale = shape.vae.scale_factor_spatial
        frames = (geometry.full_num_frames - 1) // shape.vae.scale_factor_temporal + 1
        sides = (geometry.full_height // scale, geometry.full_width // scale)
        inputs: dict[str, tuple[int, ...]] = {
            "hidden_states": (1, shape.transformer.in_channels, frames, *sides),
            "timestep": (1, shape.tokens(geometry)) if shape.expand_timesteps else (1,),
            "encoder_hidden_states": (1, text_tokens, shape.transformer.text_dim),
        }
        if shape.image_encoder is not None:
            images = 2 if shape.transformer.pos_embed_seq_len else 1
            encoder = shape.image_encoder
            inputs["encoder_hidden_states_image"] = (images, encoder.tokens, encoder.hidden_size)
        return inputs


def _image_encoder(config: Mapping[str, Any] | None) -> ImageEncoderShape | None:
    return None if config is None else ImageEncoderShape(**_pick(ImageEncoderShape, config, "image_encoder"))


def _transformer(config: Mapping[str, Any], part: str) -> TransformerShape:
    frames, rows, columns = config["patch_size"]
    return TransformerShape(**_pick(TransformerShape, {**config, "patch_size": (frames, rows, columns)}, part))


def _pick(shape: Any, config: Mapping[str, Any], part: str) -> dict[str, Any]:
    picked = {name: config[name] for name in shape.__dataclass_fields__ if config.get(name) is not None}
    for name, value in picked.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(not isinstance(number, int) or number < (type(number) is int) for number in numbers):
            raise UnsupportedModelError(f"{name} of {part} must be a whole number from 1, not {str(value)[:50]!r}.")
    return picked
